"""Self-Improving Pretraining (arXiv 2601.21343): from rollouts and verdicts to what is learned."""
