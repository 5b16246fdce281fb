//! Objects with rules of one service, beside Istio's: SMI's TrafficSplit and HTTPRouteGroup, and Linkerd's ServiceProfile.

use api::linkerd::{ServiceProfileSpec, service_profile};
use api::smi::{HttpRouteGroupSpec, TrafficSplitSpec, http_route_group, traffic_split};

use super::{Kind, Rule, RuleSpec};

/// A TrafficSplit.
pub type TrafficSplit = Rule<TrafficSplitSpec>;

/// An HTTPRouteGroup.
pub type HttpRouteGroup = Rule<HttpRouteGroupSpec>;

/// A ServiceProfile.
pub type ServiceProfile = Rule<ServiceProfileSpec>;

impl RuleSpec for TrafficSplitSpec {
    type Source = traffic_split::TrafficSplit;
    const KIND: Kind = Kind::TrafficSplit;
    const NAME: &'static str = "TrafficSplit";

    fn parts(&self) -> usize {
        1 + self.backends.len() + self.matches.len()
    }
}

impl RuleSpec for HttpRouteGroupSpec {
    type Source = http_route_group::HttpRouteGroup;
    const KIND: Kind = Kind::HttpRouteGroup;
    const NAME: &'static str = "HTTPRouteGroup";

    fn parts(&self) -> usize {
        1 + self.matches.iter().map(|of| 1 + of.headers.0.len()).sum::<usize>()
    }
}

impl RuleSpec for ServiceProfileSpec {
    type Source = service_profile::ServiceProfile;
    const KIND: Kind = Kind::ServiceProfile;
    const NAME: &'static str = "ServiceProfile";

    fn parts(&self) -> usize {
        let routes: usize = self.routes.iter().map(|route| 2 + route.response_classes.len()).sum();
        1 + routes + self.dst_overrides.len()
    }
}
