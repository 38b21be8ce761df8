from tests.support.pools import pool1, pool2  # noqa: F401 - fixtures
