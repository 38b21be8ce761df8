from tests.support.pools import pool1, pool2, pool4, pool8  # noqa: F401 - fixtures
