//! Cases of policies: AuthorizationPolicy, PeerAuthentication and RequestAuthentication.
//!
//! The servers' sidecars are under test. Each case has a namespace with a server of its own, so that many cases run at the same time
//! without seeing each other's policies: a wave. [`crate::waves`] distributes cases over them, [`bed`] starts the pods and knows when a
//! policy is in force, and [`run`] sends the requests. [`question`] asks the sidecar what it decides about a request, as
//! `isthmus authz test` does. [`tokens`] makes tokens, and [`authorizer`] is the server that policies of action `CUSTOM` ask.
//!
//! In a case, `SLOT` stands for the namespace, which is also the server's label `slot`. `{ip:shop/frontend}` is the address of a
//! pod, `{ip:server}` that of the case's server, `{jwks:rsa,es256}` a set of keys, and `{token:NAME}` a token of the case.
//!
//! The server's Service `server` has these ports:
//!
//! | port | target | protocol |
//! | --- | --- | --- |
//! | 80 | 8080 | HTTP |
//! | 81 | 8081 | gRPC |
//! | 82 | 8082 | detected |
//! | 443 | 9443 | TLS |
//! | 9000 | 9000 | TCP |
//!
//! Port 8083 of its pod serves HTTP and is in no Service.

pub mod authorizer;
pub mod bed;
mod pods;
pub mod question;
pub mod run;
pub mod tokens;
