"""A gateway between resellers' customers and the API v2 panels that resellers buy from."""
