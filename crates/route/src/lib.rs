//! Routes: which of a host's routes a request or connection takes, and what that means for it.
//!
//! Start at [`Table`]: the routes of one host, in order. [`Table::http`] finds the route of a [`RequestFacts`],
//! [`Table::tcp`] and [`Table::tls`] that of a connection. An [`HttpRoute`] carries what applies to its requests:
//! destinations with weights ([`Forward`]), or an answer of the proxy's own ([`Redirect`], [`DirectResponse`]), and headers,
//! CORS and faults.
//!
//! Istio's VirtualService, Linkerd's ServiceProfile, SMI's TrafficSplit and the routes of the Gateway API differ in their
//! conditions and precedence, not in what a route is. Their order is decided where they are compiled, so that here the first
//! route that matches is used.
//!
//! There are no sockets, no clock and no source of randomness in this crate: random bits are arguments, so every decision is
//! tested with tables. Conditions on the client's own pod are not part of the model: who builds a table leaves out what does
//! not apply to the proxy's pod. Endpoints of a destination are chosen by `balance`.

mod classes;
mod cors;
mod edits;
mod fault;
mod forward;
mod matches;
mod reply;
mod retry;
mod strings;
mod table;
mod tcp;
mod tokens;

pub use classes::ResponseClasses;
pub use cors::{Cors, CorsOutcome};
pub use edits::{HeaderEdit, HeaderEdits, InvalidHeader};
pub use fault::{Abort, Fault, Injected};
pub use forward::{Destination, Forward, Mirror, Rewrite, RewritePath, choose, shares};
pub use matches::{Claims, Condition, Expression, Facts as RequestFacts, HttpMatch};
pub use reply::{DirectResponse, Redirect, RedirectPath, RedirectPort};
pub use retry::{Retries, RetryOn, UnknownRetryCondition};
pub use strings::{InvalidRegex, Regex, StringMatch};
pub use table::{Action, Chosen, HttpRoute, Table};
pub use tcp::{ConnectionFacts, ServerName, TcpMatch, TcpRoute, TlsMatch, TlsRoute};
pub use tokens::{RetryTokens, TokenPolicy};
