"""What a run tells people while it goes on: metrics, progress, phases, profiles and plots."""
