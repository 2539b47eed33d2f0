"""What is counted. Names and labels follow Prometheus' own rules; no key, link or customer here."""

from prometheus_client import Counter, Histogram

unknown_words = Counter(
    "gateway_unknown_status_words", "Reports with a status that nobody knows", ["provider"]
)
denied_orders = Counter(
    "gateway_denied_orders", "Orders that a provider gave us and does not know", ["provider"]
)
cache_failures = Counter("gateway_cache_failures", "Cache operations that failed and were a miss")
loop_lag = Histogram(
    "gateway_event_loop_lag_seconds",
    "How late the event loop came to what was due, by when it was held",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
