"""The cache that a prefill with dropping returns: a transformers Cache whose layers have lengths of their own."""

from transformers.cache_utils import Cache

from .errors import UnsupportedError


class KeptCache(Cache):
    """Holds a Store. Only a model that dropping is enabled on can read it, one token a request at a time.

    `kept_lengths`: drop layer → rows of each prompt that go on. `layer_lengths(i)`: rows that layer i holds of each request.
    """

    def __init__(self, store):
        # None of the base class's layers: they all have one length.
        self.layers = []
        self.layer_class_to_replicate = None
        self.offloading = False
        self.store = store

    @property
    def prompt_lengths(self):
        return list(self.store.prompts)

    @property
    def kept_lengths(self):
        return [list(lengths) for lengths in self.store.kept_lengths]

    @property
    def kept_positions(self):
        """Drop layer → for each request the positions in its prompt that go on, int32 on the device."""
        return [list(p.split(lengths)) for p, lengths in zip(self.store.kept_positions, self.store.kept_lengths)]

    @property
    def fallbacks(self):
        """Selections that kept every row because attention scores were not finite."""
        return self.store.fallbacks

    def layer_lengths(self, layer_idx):
        return self.store.layer_lengths(layer_idx)

    def nbytes(self):
        return self.store.bytes()

    def get_seq_length(self, layer_idx=0):
        """Columns of input so far, padding and dropped rows included: what `generate` counts by."""
        return self.store.seen

    def get_query_offset(self, layer_idx=0):
        return self.store.seen

    def get_max_length(self, layer_idx=None):
        return -1

    def get_mask_sizes(self, query_length, layer_idx=0):
        return self.store.seen + (query_length if isinstance(query_length, int) else len(query_length)), 0

    def has_previous_state(self, layer_idx=None, state_idx=0):
        return True

    @property
    def is_compileable(self):
        return False

    @property
    def is_initialized(self):
        return True

    @property
    def is_croppable(self):
        return False

    @property
    def batch_size(self):
        return self.store.batch

    def __len__(self):
        return len(self.store.of_layer) + len(self.store.recurrences)

    def __repr__(self):
        return f"KeptCache(prompts {self.store.prompts}, kept {self.store.kept_lengths})"


def _refuses(name, why):
    def refuse(self, *_, **__):
        raise UnsupportedError(f"KeptCache.{name} is not supported: {why}; call uniprefill.disable(model) first")

    return refuse


for _name, _why in {
    "reorder_cache": "beam search reorders requests, whose rows were kept apart",
    "crop": "assisted decoding takes tokens back",
    "activate_past_recording": "assisted decoding takes tokens back",
    "batch_repeat_interleave": "requests hold different rows",
    "batch_select_indices": "requests hold different rows",
    "update": "its rows are written by the forward pass of uniprefill",
    "update_conv_state": "its states are written by the forward pass of uniprefill",
    "update_recurrent_state": "its states are written by the forward pass of uniprefill",
    "update_indexer": "its rows are written by the forward pass of uniprefill",
    "early_initialization": "it is made by a prefill",
    "offload": "its rows stay on the device",
    "prefetch": "its rows stay on the device",
    "reset": "it is made by a prefill",
}.items():
    setattr(KeptCache, _name, _refuses(_name, _why))
