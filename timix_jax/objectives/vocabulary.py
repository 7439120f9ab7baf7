"""What objectives over words know of the tokenizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer by their role; hashable, so that an objective can hold it.

    Attributes:
      size: V, number of ids.
      pad_id: the id that pads.
      mask_id: the id of [MASK]; None for a vocabulary without one.
      special: ids that stand for no word: [PAD], [CLS], [SEP], [MASK], [UNK].
      start_id: the id of [CLS], which starts a text; None for a vocabulary without one.
      end_id: the id of [SEP], which ends a text.
      continues: V bytes, 1 for a piece that belongs to the word before it; empty if none does.
      unfinished: V bytes, 1 for a piece after which its word goes on; empty if there is none.
      articles: ids of the articles, with which the names of things may start.

    **Example:** `Vocabulary(size=30522, pad_id=0, mask_id=103, special=(0, 100, 101, 102, 103))`
    """

    size: int
    pad_id: int = 0
    mask_id: int | None = None
    special: tuple[int, ...] = ()
    start_id: int | None = None
    end_id: int = 3
    continues: bytes = b""
    unfinished: bytes = b""
    articles: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Sort the special ids, which `word` relies on."""
        object.__setattr__(self, "special", tuple(sorted({*self.special, self.pad_id})))

    @property
    def words(self) -> int:
        """Number of ids that are words."""
        return self.size - len(self.special)

    def is_word(self, tokens: Array) -> Array:
        """Return bool of the shape of `tokens`: False for special ids."""
        return ~jnp.isin(tokens, jnp.asarray(self.special, tokens.dtype))

    def word(self, number: Array) -> Array:
        """Return the id of word `number`, 0 to `words` − 1, counting ids that are not special."""
        for index in self.special:
            number = number + (number >= index)
        return number

    def begins_word(self, tokens: Array) -> Array:
        """Return bool of the shape of tokens (B, T): True where neither this piece nor the one before is inside a word.

        [CLS], [SEP] and padding count as words of their own.
        """
        before = jnp.pad(self._marked(self.unfinished, tokens[:, :-1]), ((0, 0), (1, 0)))
        return ~self._marked(self.continues, tokens) & ~before

    def _marked(self, marks: bytes, tokens: Array) -> Array:
        if not marks:
            return jnp.zeros(tokens.shape, bool)
        return jnp.asarray(np.frombuffer(marks, bool))[tokens]

    def require_mask(self, reader: str) -> int:
        """Return `mask_id`.

        Raises:
          UserError: the vocabulary has no [MASK], or no words.
        """
        if self.mask_id is None:
            raise UserError(
                f"{reader} hides words behind [MASK], which the vocabulary lacks: set its weight to 0, or"
                " config.data.tokenizer to a vocabulary with [MASK]"
            )
        if self.words < 1:
            raise UserError(f"{reader}: the vocabulary of {self.size} ids holds no words")
        return self.mask_id


def nominal_vocabulary(size: int) -> Vocabulary:
    """Return what is assumed of `size` ids where a configuration is described without its tokenizer."""
    return Vocabulary(max(size, 6), pad_id=0, mask_id=4, special=(0, 1, 2, 3, 4), start_id=2)


NOMINAL = nominal_vocabulary(6)
