"""What tests of the door share."""

from tests.web.hashes import cheap_hashes

__all__ = ["cheap_hashes"]
