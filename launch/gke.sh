#!/usr/bin/env bash
# A run on Google Kubernetes Engine as a JobSet: one pod per host, restarted until the run has finished.
#
#   export IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/timix_jax ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4
#   launch/gke.sh run NAME --config=configs/vitb16.py --workdir=gs://BUCKET/run
#
# Needs: kubectl on a cluster with the JobSet controller and a node pool of that accelerator (xpk sets both up, see
# launch/README.md); an image with this checkout at /timix_jax, installed with '.[tpu,gcs]' or '.[cuda,gcs]', that has
# bash; a service account that may write the bucket (SERVICE_ACCOUNT, default: the namespace's).
# TPU: ACCELERATOR and TOPOLOGY as the node pool has them, HOSTS (chips of the topology / CHIPS), CHIPS per host (4).
# GPU: GPUS per host, HOSTS, ACCELERATOR such as nvidia-h100-80gb; no TOPOLOGY.
# Preemption: a pod that is told to stop saves and ends with code 75, which restarts all pods (RESTARTS times at most,
# default 1000); they resume. Code 2, a user error in flags or configuration, fails the JobSet at once.
# Stop and clean up: `launch/gke.sh stop NAME` deletes the JobSet; its pods get SIGTERM and GRACE seconds (300) to save;
# `run` again resumes. The bucket is never touched: gcloud storage rm -r WORKDIR. Further: status, logs.
# DRY_RUN=1 prints the commands and the manifest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=commands.sh
source "$here/commands.sh"

usage="usage: IMAGE=… ACCELERATOR=… $0 run|status|logs|stop NAME [flags of timix_jax.main]"
(($# >= 2)) || die "$usage"
command=$1 name=$2
shift 2
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  die "NAME '$name': at most 40 lower-case letters, digits and '-'; $usage"
port=12355

number() { # NAME VALUE
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1='$2': give a number of at least 1"
}

# A string of YAML: in single quotes nothing is special but the quote.
yaml() { printf "'%s'" "${1//\'/\'\'}"; }

manifest() {
  local resource selector="" flags wait
  if [[ -n ${GPUS:-} ]]; then
    resource="nvidia.com/gpu: $GPUS"
    selector="cloud.google.com/gke-accelerator: $(yaml "$ACCELERATOR")"
    # JAX cannot detect the pods without rights to query the cluster. The index is in each pod's environment.
    flags="--coordinator=$name-workers-0-0.$name:$port --processes=$hosts --process=\"\$JOB_COMPLETION_INDEX\""
  else
    resource="google.com/tpu: $chips"
    selector="cloud.google.com/gke-tpu-accelerator: $(yaml "$ACCELERATOR")
                cloud.google.com/gke-tpu-topology: $(yaml "$TOPOLOGY")"
    flags="--distributed=on"
  fi
  wait=$(longer_wait "$@")
  flags+=${wait:+ $wait}
  [[ -n $(flag_value compile_cache "$@") ]] || flags+=" $(quoted "--compile_cache=${workdir%/}/compiled")"
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: main, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace
              nodeSelector:
                $selector${SERVICE_ACCOUNT:+
              serviceAccountName: $(yaml "$SERVICE_ACCOUNT")}
              containers:
                - name: main
                  image: $(yaml "$IMAGE")
                  workingDir: /timix_jax
                  ports: [{containerPort: $port}]
                  command: [bash, -c]
                  args:
                    - $(yaml "exec launch/worker.sh $flags $(quoted "$@")")
                  resources:
                    limits: {$resource}
YAML
}

run() {
  local variable
  for variable in IMAGE ACCELERATOR; do
    [[ -n ${!variable:-} ]] || die "$variable is not set; $usage"
  done
  hosts=${HOSTS:-} chips=${CHIPS:-4} restarts=${RESTARTS:-1000} grace=${GRACE:-300}
  number CHIPS "$chips"
  if [[ -n ${GPUS:-} ]]; then
    number GPUS "$GPUS"
    hosts=${hosts:-1}
  else
    [[ ${TOPOLOGY:-} =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || die "TOPOLOGY='${TOPOLOGY:-}': such as 4x4 (or set GPUS)"
    hosts=${hosts:-$((${TOPOLOGY//x/*} / chips))}
  fi
  number HOSTS "$hosts"
  number RESTARTS "$restarts"
  number GRACE "$grace"
  if [[ -n ${DRY_RUN:-} ]]; then
    act kubectl apply -f -
    manifest "$@"
  else
    manifest "$@" | kubectl apply -f -
  fi
}

case $command in
  run)
    require_run_flags "$@"
    workdir=$(flag_value workdir "$@")
    [[ $workdir == gs://?* ]] || die "--workdir=$workdir: the pods share no disk; give gs://BUCKET/FOLDER"
    run "$@"
    ;;
  status) act kubectl get jobset,pods -l "jobset.sigs.k8s.io/jobset-name=$name" ;;
  logs) act kubectl logs --follow --prefix --max-log-requests=256 -l "jobset.sigs.k8s.io/jobset-name=$name" ;;
  stop) act kubectl delete jobset "$name" ;;
  *) die "unknown command '$command'; $usage" ;;
esac
