"""What is counted. Names and labels follow Prometheus' own rules; no key, link or customer here."""

from prometheus_client import Counter

unknown_words = Counter(
    "gateway_unknown_status_words", "Reports with a status that nobody knows", ["provider"]
)
denied_orders = Counter(
    "gateway_denied_orders", "Orders that a provider gave us and does not know", ["provider"]
)
cache_failures = Counter("gateway_cache_failures", "Cache operations that failed and were a miss")
