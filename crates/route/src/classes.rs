//! Classes of responses: which ones count as failures.

/// The statuses of gRPC that are failures, as Linkerd's proxy has them: unknown, deadline exceeded, permission denied, internal,
/// unavailable, data loss.
const GRPC_FAILURES: [u16; 6] = [2, 4, 7, 13, 14, 15];

/// How the responses of a route are counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseClasses {
    /// Ranges of statuses, in order, and whether they are failures. A status in none of them is one by itself.
    pub ranges: Box<[(u16, u16, bool)]>,
}

impl ResponseClasses {
    /// Returns whether a response is a failure. `status` is 0 if there is none; `grpc_status` is that of a response of gRPC.
    pub fn is_failure(&self, status: u16, grpc_status: Option<u16>) -> bool {
        let class = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&status));
        match (class, grpc_status) {
            (Some((.., failure)), _) => *failure,
            (None, Some(status)) => GRPC_FAILURES.contains(&status),
            (None, None) => !(100..500).contains(&status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_a_failure_by_its_class_else_by_its_status() {
        let none = ResponseClasses::default();
        let classes = ResponseClasses { ranges: [(404, 404, true), (503, 503, false), (500, 599, true)].into() };
        for (status, grpc, default, own) in [
            (200, None, false, false),
            (404, None, false, true),
            (500, None, true, true),
            (503, None, true, false),
            (0, None, true, true),
            (200, Some(0), false, false),
            (200, Some(14), true, true),
            (200, Some(5), false, false),
            (503, Some(14), true, false),
        ] {
            assert_eq!(none.is_failure(status, grpc), default, "{status} {grpc:?}");
            assert_eq!(classes.is_failure(status, grpc), own, "{status} {grpc:?}");
        }
    }
}
