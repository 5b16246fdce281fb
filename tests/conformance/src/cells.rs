//! Cases of Gateways, Sidecars and ServiceEntries.
//!
//! Each case has a cell: a namespace of its own, so that many cases run at the same time. In the bed `sidecars`, a
//! cell has a client and a server with sidecars; in the bed `gateways`, it has a gateway. `pods` are those of the
//! beds, [`bed`] starts them and knows when a configuration is in force, [`run`] sends the requests, and `words`
//! fills in what a case cannot know:
//!
//! | word | stands for |
//! | --- | --- |
//! | `CELL` | the namespace |
//! | `HOST` | the name of the case |
//! | `CERTIFICATES` | the directory of certificates |
//! | `{ip:shop/v1}`, `{ip:client}` | the address of a pod, or of one of the cell |
//! | `{name:v1}` | a name that resolves to the address of `shop/v1`, and is no service's; also `v2` |
//! | `{service:server.shop}` | the address of a Service |
//! | `{vip}`, `{vip2}` | addresses of nobody, which differ from cell to cell |
//! | `{file:NAME}` | the content of a file of certificates |
//! | `{spki:NAME}`, `{hash:NAME}` | the SHA-256 of a certificate's public key in base64, and of the certificate in hexadecimal |
//! | `{jwks:rsa}`, `{token:NAME}` | a set of keys, and a token of the case |
//!
//! Outside of cells are servers without sidecars (`shop/v1`, `v2` and `v3` behind the Service `server.shop` with
//! subsets of these names, `shop/other` behind `other.shop`, and `bank/bank-v1` behind `server.bank`), a client with a
//! sidecar (`bank/teller`) and one without (`legacy/plain`).

pub mod bed;
mod pods;
pub mod run;
mod words;
