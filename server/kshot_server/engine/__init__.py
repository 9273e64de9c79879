"""The engine: adapts and predicts for many sessions at once. No HTTP here; torch comes in with the first executor."""
