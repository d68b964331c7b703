//! Istio's resources: the model, decoding and validation. Knows nothing of what they mean for a flow.
