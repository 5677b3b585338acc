"""The one training loop, and what it needs: optimizer, processes, a graceful stop."""
