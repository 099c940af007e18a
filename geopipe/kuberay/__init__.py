"""A run on Kubernetes with KubeRay: pods of the size that the plan needs, and the manifests."""
