//! Services and routes as one workload sees them, built from Istio's resources.
