"""The cluster's key-value store without a cluster, for what `serve.shared_specs` keeps in it."""


class FakeStore:
    """Stands in for `ray.experimental.internal_kv`; counts how often keys are listed."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.num_listed = 0

    def _internal_kv_put(self, key: bytes, value: bytes, *, overwrite: bool, namespace: bytes) -> None:
        self.values[key] = value

    def _internal_kv_get(self, key: bytes, *, namespace: bytes) -> bytes | None:
        return self.values.get(key)

    def _internal_kv_del(self, key: bytes, *, namespace: bytes) -> None:
        self.values.pop(key, None)

    def _internal_kv_list(self, prefix: bytes, *, namespace: bytes) -> list[bytes]:
        self.num_listed += 1
        return [key for key in self.values if key.startswith(prefix)]

    def internal_kv_get_gcs_client(self) -> "FakeStore":
        return self

    def internal_kv_multi_get(self, keys: list[bytes], namespace: bytes) -> dict[bytes, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}
