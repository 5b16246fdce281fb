//! Opaque TCP: an echo, and a server that speaks first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use net::socket::Acceptor;
use runtime::drain::Watch;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::answer::AppAnswer;
use super::app::App;
use crate::console::print_stderr;

/// Accepts connections until drain. With an application, each connection begins with a line of JSON that describes the
/// instance.
pub(super) async fn serve(mut acceptor: Acceptor, greeting: Option<Arc<App>>, mut drain: Watch) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = acceptor.next() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    print_stderr(&format!("isthmus testapp: a TCP port cannot accept connections: {error}"));
                    return;
                }
            },
            () = drain.begun() => return,
        };
        let (greeting, guard) = (greeting.clone(), drain.guard());
        tokio::spawn(async move {
            // A connection may be reset by its client.
            let _ = connection(stream, peer, greeting.as_deref()).await;
            drop(guard);
        });
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, greeting: Option<&App>) -> io::Result<()> {
    if let Some(app) = greeting {
        let mut line = serde_json::to_vec(&AppAnswer::to_connection(&app.who, "TCP", peer))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
    }
    let (mut reads, mut writes) = stream.split();
    tokio::io::copy(&mut reads, &mut writes).await?;
    writes.shutdown().await
}
