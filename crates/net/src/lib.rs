//! Sockets and namespaces: original destination, ClientHello, splice, port reuse, nftables, links. The only crate with unsafe code.
