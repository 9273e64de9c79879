"""The engine: adapts and predicts for many sessions at once. No HTTP here; the runtime comes in with an executor."""
