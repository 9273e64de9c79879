"""The kshot server: sessions, engine and HTTP."""
