//! Limits on the rate of requests: which ones a request counts against, and what is left of them.
//!
//! Start at [`RateLimits`]: the rules of a proxy, in order, by the [`Side`] on which requests are. A [`Rule`] has a limit that the
//! proxy counts itself ([`LocalLimit`]) or one that a service counts ([`GlobalLimit`]), and what a request that exceeds it is
//! answered. [`Descriptor`]s are what a request is counted by, as in Envoy: keys and values that [`Action`]s take from it.
//!
//! A [`TokenBucket`] is one atomic cell that all workers share: exact, without a lock and without a timer, so that an idle
//! bucket costs nothing. The buckets of values that clients choose are bounded ([`BucketsByValue`]).
//!
//! Envoy's filters, Linkerd's policy and the mesh's own resource are compiled into the same rules. There are no sockets and no
//! clock in this crate: times are arguments.

mod bucket;
mod by_value;
mod descriptor;
mod header;
mod local;
mod quota;
mod rule;

pub use bucket::{InvalidRate, Level, Rate, TokenBucket};
pub use by_value::{BucketsByValue, VALUES};
pub use descriptor::{Action, Descriptor, DescriptorActions, Entry, HeaderCondition, HeaderOf, RequestFacts, Source};
pub use header::quota_headers;
pub use local::{Buckets, DescriptorLimit, EntryPattern, LocalLimit, Taken};
pub use quota::{Quota, Window};
pub use rule::{Answer, AnswerHeader, GlobalLimit, Limit, RateLimits, RouteDescriptors, Rule, Share, Side, SideLimits};
