"""The lab as a cluster: an emulated API server with its controllers, pods that are real echo servers, and a data plane."""
