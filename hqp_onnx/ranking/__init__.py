"""Which units are removed first: saliencies, costs after the refit, redundancy, order."""
