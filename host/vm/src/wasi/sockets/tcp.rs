//! `network`, `instance-network`, `tcp-create-socket` and `tcp`: wasmtime-wasi's, behind the decisions and the counts
//! of this host.
//!
//! A program connects, and nobody connects to it: `start-listen` and `accept` are denied. It may bind a socket only to
//! any address with any port, as a connection does without a bind.

use super::streams::{Received, Sent};
use super::{KERNEL_BUFFER_BYTES_MAX, SOCKETS_MAX, trap};
use crate::wasi::Wasi;
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, HostTcpSocket, ShutdownType};
use wasmtime_wasi::p2::bindings::sockets::{instance_network, tcp_create_socket};
use wasmtime_wasi::p2::{SocketError, SocketResult, TcpSocket};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

impl network::Host for Wasi {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.stock().map_err(trap)?, error)
    }
}

impl network::HostNetwork for Wasi {
    fn drop(&mut self, network: Resource<Network>) -> Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

impl instance_network::Host for Wasi {
    fn instance_network(&mut self) -> Result<Resource<Network>> {
        self.stock().map_err(trap)?.instance_network()
    }
}

impl tcp_create_socket::Host for Wasi {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        if self.sockets()?.open >= SOCKETS_MAX {
            return Err(ErrorCode::NewSocketLimit.into());
        }
        let mut stock = self.stock()?;
        let socket = stock.create_tcp_socket(family)?;
        let rep = socket.rep();
        // Without a size, the kernel enlarges the buffers up to megabytes.
        let sized = stock
            .set_receive_buffer_size(Resource::new_borrow(rep), KERNEL_BUFFER_BYTES_MAX)
            .and_then(|()| stock.set_send_buffer_size(Resource::new_borrow(rep), KERNEL_BUFFER_BYTES_MAX));
        if let Err(error) = sized {
            HostTcpSocket::drop(&mut stock, socket).map_err(SocketError::trap)?;
            return Err(error);
        }
        self.sockets()?.open += 1;
        Ok(socket)
    }
}

impl tcp::Host for Wasi {}

/// Defines functions that wasmtime-wasi alone decides about.
macro_rules! stock {
    ($($name:ident($($argument:ident: $ty:ty)?) -> $result:ty;)*) => {$(
        fn $name(&mut self, socket: Resource<TcpSocket>, $($argument: $ty)?) -> SocketResult<$result> {
            self.stock()?.$name(socket, $($argument)?)
        }
    )*};
}

impl HostTcpSocket for Wasi {
    async fn start_bind(
        &mut self,
        socket: Resource<TcpSocket>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        self.stock()?.start_bind(socket, network, local).await
    }

    fn start_connect(
        &mut self,
        socket: Resource<TcpSocket>,
        network: Resource<Network>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let sockets = self.sockets()?;
        let remote_address = SocketAddr::from(remote);
        if !sockets.reach.allows(remote_address) {
            return Err(sockets.deny(remote_address).into());
        }
        sockets.meter.check_call().map_err(SocketError::trap)?;
        self.stock()?.start_connect(socket, network, remote)?;
        self.sockets()?.meter.count_call();
        Ok(())
    }

    fn finish_connect(
        &mut self,
        socket: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let parent = Resource::<TcpSocket>::new_borrow(socket.rep());
        let (input, output) = self.stock()?.finish_connect(socket)?;
        let meter = Arc::clone(&self.sockets()?.meter);
        // They are new, so the guest has neither them nor anything that depends on them.
        let received = Received { stream: self.table.delete(input)?, meter: Arc::clone(&meter) };
        let sent = Sent { stream: self.table.delete(output)?, meter };
        let input = self.table.push_child(Box::new(received) as DynInputStream, &parent)?;
        let output = self.table.push_child(Box::new(sent) as DynOutputStream, &parent)?;
        self.sockets()?.outputs.push(output.rep());
        Ok((input, output))
    }

    async fn start_listen(&mut self, _socket: Resource<TcpSocket>) -> SocketResult<()> {
        Err(ErrorCode::AccessDenied.into())
    }

    fn accept(
        &mut self,
        _socket: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        Err(ErrorCode::AccessDenied.into())
    }

    fn is_listening(&mut self, socket: Resource<TcpSocket>) -> Result<bool> {
        self.stock().map_err(trap)?.is_listening(socket)
    }

    fn address_family(&mut self, socket: Resource<TcpSocket>) -> Result<IpAddressFamily> {
        self.stock().map_err(trap)?.address_family(socket)
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.stock()?.set_receive_buffer_size(socket, value.min(KERNEL_BUFFER_BYTES_MAX))
    }

    fn set_send_buffer_size(&mut self, socket: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        self.stock()?.set_send_buffer_size(socket, value.min(KERNEL_BUFFER_BYTES_MAX))
    }

    stock! {
        finish_bind() -> ();
        finish_listen() -> ();
        local_address() -> IpSocketAddress;
        remote_address() -> IpSocketAddress;
        set_listen_backlog_size(value: u64) -> ();
        keep_alive_enabled() -> bool;
        set_keep_alive_enabled(value: bool) -> ();
        keep_alive_idle_time() -> u64;
        set_keep_alive_idle_time(value: u64) -> ();
        keep_alive_interval() -> u64;
        set_keep_alive_interval(value: u64) -> ();
        keep_alive_count() -> u32;
        set_keep_alive_count(value: u32) -> ();
        hop_limit() -> u8;
        set_hop_limit(value: u8) -> ();
        receive_buffer_size() -> u64;
        send_buffer_size() -> u64;
        shutdown(direction: ShutdownType) -> ();
    }

    fn subscribe(&mut self, socket: Resource<TcpSocket>) -> Result<Resource<DynPollable>> {
        self.stock().map_err(trap)?.subscribe(socket)
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> Result<()> {
        HostTcpSocket::drop(&mut self.stock().map_err(trap)?, socket)?;
        let sockets = self.sockets().map_err(trap)?;
        sockets.open = sockets.open.saturating_sub(1);
        Ok(())
    }
}
