//! The proxy beside a pod.
