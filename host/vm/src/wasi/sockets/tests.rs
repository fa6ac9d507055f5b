//! What the host knows of names. What a program sees of its sockets is in `tests/sockets.rs`.

use super::names::code_of;
use super::streams::Sent;
use super::*;
use bytes::Bytes;
use futures::FutureExt;
use lifeboat_disk::Disk;
use std::sync::atomic::AtomicUsize;
use tokio::sync::Semaphore;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamError, StreamResult};

/// A source of addresses, each of which is another one, and which waits for a permit. It allows literals of IPv6.
struct Counting {
    look_ups: AtomicUsize,
    permits: Arc<Semaphore>,
}

impl Peers for Counting {
    fn allows(&self, address: SocketAddr) -> bool {
        address.is_ipv6()
    }

    fn find(&self, _name: &str) -> Peer {
        Peer::Denied
    }

    fn resolve(&self, _name: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let number = u8::try_from(self.look_ups.fetch_add(1, Ordering::Relaxed)).unwrap();
        let permits = Arc::clone(&self.permits);
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            Ok(vec![[10, 0, 0, number].into()])
        })
    }
}

fn reach() -> (Arc<Reach>, Arc<Counting>) {
    let peers = Arc::new(Counting { look_ups: AtomicUsize::new(0), permits: Arc::new(Semaphore::new(0)) });
    (Arc::new(Reach { peers: Arc::clone(&peers) as Arc<dyn Peers>, resolved: Mutex::default() }), peers)
}

fn look_up(reach: &Arc<Reach>) -> impl Future<Output = bool> {
    reach.look_up("a".into(), vec![80]).map(|found| found.is_ok())
}

fn allows(reach: &Reach, number: u8, port: u16) -> bool {
    reach.permits(([10, 0, 0, number], port).into(), SocketAddrUse::TcpConnect)
}

#[tokio::test]
async fn look_ups_of_a_name_at_the_same_time_are_one() {
    let (reach, peers) = reach();
    let (one, two) = (look_up(&reach), look_up(&reach));
    assert!(!allows(&reach, 0, 80));
    peers.permits.add_permits(1);
    assert_eq!((one.await, two.await, peers.look_ups.load(Ordering::Relaxed)), (true, true, 1));
    assert!(allows(&reach, 0, 80) && !allows(&reach, 0, 81) && !allows(&reach, 1, 80));
    peers.permits.add_permits(1);
    assert!(look_up(&reach).await);
    assert!(allows(&reach, 0, 80) && allows(&reach, 1, 80));
}

#[tokio::test]
async fn a_look_up_that_nobody_waits_for_ends_and_is_not_the_next_one() {
    let (reach, peers) = reach();
    drop(look_up(&reach));
    peers.permits.add_permits(2);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(allows(&reach, 0, 80));
    assert_eq!((look_up(&reach).await, peers.look_ups.load(Ordering::Relaxed)), (true, 2));
    assert!(allows(&reach, 1, 80));
}

#[test]
fn a_failure_of_the_resolver_is_temporary_or_not() {
    let code = |text: &str| code_of(&std::io::Error::other(text.to_owned()));
    let prefix = "failed to lookup address information";
    let temporary = code(&format!("{prefix}: Temporary failure in name resolution"));
    assert!(matches!(temporary, ErrorCode::TemporaryResolverFailure));
    assert!(matches!(code(&format!("{prefix}: Name or service not known")), ErrorCode::NameUnresolvable));
}

/// A stream of a socket that the runtime gives no turn, so that it has no new permit. Its peer takes all, or nothing.
struct Busy {
    peer_takes: bool,
}

#[async_trait]
impl Pollable for Busy {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Busy {
    fn write(&mut self, _bytes: Bytes) -> StreamResult<()> {
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(0)
    }

    async fn cancel(&mut self) {
        if !self.peer_takes {
            std::future::pending::<()>().await;
        }
    }
}

#[test]
fn zeroes_need_no_further_permit() {
    let meter = Arc::new(Meter::new(NetworkAmount { calls: 1, bytes: 1 << 20 }));
    let mut sent = Sent { stream: Box::new(Busy { peer_takes: true }), meter: Arc::clone(&meter) };
    assert!(sent.write_zeroes(10).is_ok());
    assert!(matches!(sent.write_zeroes(SOCKET_BUFFER_BYTES_MAX + 1), Err(StreamError::Trap(_))));
    assert_eq!(meter.used().bytes, 10);
}

#[tokio::test]
async fn a_wait_for_peers_tells_whether_they_took_all() {
    for peer_takes in [true, false] {
        let mut wasi = Wasi::new([7; 32], 100, Disk::new(0), 1 << 20);
        let (_, peers) = reach();
        wasi.set_network(TcpNetwork { peers, allowance: NetworkAmount::default() });
        let output = wasi.table.push(Box::new(Busy { peer_takes }) as DynOutputStream).unwrap();
        wasi.sockets().unwrap().outputs.push(output.rep());
        assert_eq!(wasi.linger(Duration::ZERO).await, peer_takes);
    }
}

#[test]
fn an_address_with_a_zone_is_none_that_is_allowed() {
    let (reach, _peers) = reach();
    let allows = |address: &str| reach.permits(address.parse().unwrap(), SocketAddrUse::TcpConnect);
    assert!(allows("[fe80::1]:80") && !allows("[fe80::1%1]:80"));
}

#[tokio::test]
async fn a_name_has_the_addresses_that_were_resolved_last() {
    let (reach, peers) = reach();
    for _ in 0..=NAME_ADDRESSES_MAX {
        peers.permits.add_permits(1);
        assert!(look_up(&reach).await);
    }
    let last = u8::try_from(NAME_ADDRESSES_MAX).unwrap();
    assert!(!allows(&reach, 0, 80) && allows(&reach, 1, 80) && allows(&reach, last, 80));
}

#[test]
fn a_program_binds_to_any_address_and_does_not_listen() {
    let (reach, _peers) = reach();
    let permits = |address: &str, address_use| reach.permits(address.parse().unwrap(), address_use);
    assert!(permits("0.0.0.0:0", SocketAddrUse::TcpBind) && permits("[::]:0", SocketAddrUse::TcpBind));
    assert!(!permits("0.0.0.0:80", SocketAddrUse::TcpBind) && !permits("127.0.0.1:0", SocketAddrUse::TcpBind));
    for other in [SocketAddrUse::TcpListen, SocketAddrUse::TcpAccept, SocketAddrUse::UdpBind, SocketAddrUse::UdpSend] {
        assert!(!permits("0.0.0.0:0", other));
    }
}

#[test]
fn the_granted_interfaces_are_those_of_tcp() {
    for (import, expected) in [
        ("wasi:sockets/tcp@0.2.0", true),
        ("wasi:sockets/ip-name-lookup@0.2.12", true),
        ("wasi:sockets/udp@0.2.0", false),
        ("wasi:sockets/types@0.3.0", false),
        ("wasi:sockets/tcp@0.3.0", false),
        ("wasi:sockets/tcp@0.2.0-rc-2023-11-10", false),
        ("wasi:sockets/tcp@0.2.", false),
        ("wasi:sockets/tcp", false),
        ("wasi:io/tcp@0.2.0", false),
    ] {
        assert_eq!(is_granted(import), expected, "{import}");
    }
}
