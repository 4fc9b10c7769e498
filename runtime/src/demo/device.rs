//! A Modbus TCP device to poll: tokio-modbus's server, a different code base from the connector's, over a small memory.
//!
//! | registers (holding and input) | content |
//! |---|---|
//! | 0-1 | counter, 32 bit, high word first; every read of register 0 advances it by one, per unit |
//! | 2 | sine, 0 to 1000, period 60 s |
//! | 3 | sawtooth, 0 to 999, period 10 s |
//! | 4 | square, 0 or 1, period 2 s |
//! | 10-99 | memory, writable |
//!
//! Coils and discrete inputs 0-99 are memory too. The counter is the witness: a value that reached the platform was
//! read once and only once.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tracing::debug;

/// First writable register.
const MEMORY_START: u16 = 10;
/// One past the last register and coil.
const END: u16 = 100;
const COUNTER: u16 = 0;
const SINE: u16 = 2;
const SAWTOOTH: u16 = 3;
const SQUARE: u16 = 4;
/// Requests that may wait for the memory's owner.
const REQUESTS: usize = 64;

/// What the device has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// TCP sessions accepted.
    pub sessions: u64,
    /// Requests answered, by unit.
    pub requests: BTreeMap<u8, u64>,
    /// The last counter value handed out, by unit.
    pub counters: BTreeMap<u8, u32>,
    /// Registers and coils written.
    pub writes: u64,
}

/// A running device. Dropping it ends it.
#[derive(Debug)]
pub struct Device {
    address: SocketAddr,
    counts: watch::Receiver<DeviceCounts>,
    tasks: [JoinHandle<()>; 2],
}

impl Device {
    /// Listens on `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (counting, counts) = watch::channel(DeviceCounts::default());
        let memory = tokio::spawn(own_memory(inbox, counting.clone()));
        let server = tokio::spawn(serve(listener, requests, counting));
        Ok(Self {
            address,
            counts,
            tasks: [memory, server],
        })
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was seen so far.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<DeviceCounts> {
        self.counts.clone()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Asked {
    unit: u8,
    request: Request<'static>,
    answer: oneshot::Sender<Result<Response, ExceptionCode>>,
}

/// One session's way to the memory.
#[derive(Clone)]
struct Desk {
    requests: mpsc::Sender<Asked>,
}

impl Service for Desk {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, ExceptionCode>> + Send>>;

    fn call(&self, asked: Self::Request) -> Self::Future {
        let requests = self.requests.clone();
        Box::pin(async move {
            let (answer, reply) = oneshot::channel();
            let asked = Asked {
                unit: asked.slave,
                request: asked.request,
                answer,
            };
            requests
                .send(asked)
                .await
                .map_err(|_ended| ExceptionCode::ServerDeviceFailure)?;
            reply
                .await
                .unwrap_or(Err(ExceptionCode::ServerDeviceFailure))
        })
    }
}

async fn serve(
    listener: TcpListener,
    requests: mpsc::Sender<Asked>,
    counts: watch::Sender<DeviceCounts>,
) {
    let server = Server::new(listener);
    let on_connected = |stream: tokio::net::TcpStream, _peer| {
        counts.send_modify(|counts| counts.sessions += 1);
        let desk = Desk {
            requests: requests.clone(),
        };
        async move {
            stream.set_nodelay(true)?;
            Ok(Some((desk, stream)))
        }
    };
    let on_process_error = |error| debug!(%error, "modbus device: session ended");
    if let Err(error) = server.serve(&on_connected, on_process_error).await {
        debug!(%error, "modbus device: listener ended");
    }
}

async fn own_memory(mut inbox: mpsc::Receiver<Asked>, counts: watch::Sender<DeviceCounts>) {
    let start = Instant::now();
    let mut units: BTreeMap<u8, Unit> = BTreeMap::new();
    while let Some(Asked {
        unit,
        request,
        answer,
    }) = inbox.recv().await
    {
        let memory = units.entry(unit).or_default();
        let result = memory.answer(&request, start.elapsed());
        counts.send_modify(|counts| {
            *counts.requests.entry(unit).or_default() += 1;
            counts.counters.insert(unit, memory.counter);
            counts.writes += u64::from(result.is_ok() && is_write(&request));
        });
        // A session that is gone needs no answer.
        answer.send(result).unwrap_or(());
    }
}

fn is_write(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::WriteSingleCoil(..)
            | Request::WriteMultipleCoils(..)
            | Request::WriteSingleRegister(..)
            | Request::WriteMultipleRegisters(..)
            | Request::MaskWriteRegister(..)
    )
}

/// The memory of one unit.
#[derive(Debug)]
struct Unit {
    counter: u32,
    registers: [u16; END as usize],
    coils: [bool; END as usize],
}

impl Default for Unit {
    fn default() -> Self {
        Self {
            counter: 0,
            registers: [0; END as usize],
            coils: [false; END as usize],
        }
    }
}

impl Unit {
    fn answer(
        &mut self,
        request: &Request<'_>,
        elapsed: Duration,
    ) -> Result<Response, ExceptionCode> {
        match request {
            Request::ReadHoldingRegisters(start, count) => self
                .read(*start, *count, elapsed)
                .map(Response::ReadHoldingRegisters),
            Request::ReadInputRegisters(start, count) => self
                .read(*start, *count, elapsed)
                .map(Response::ReadInputRegisters),
            Request::ReadCoils(start, count) => Ok(Response::ReadCoils(
                self.coils[range(*start, usize::from(*count), 0)?].to_vec(),
            )),
            Request::ReadDiscreteInputs(start, count) => Ok(Response::ReadDiscreteInputs(
                self.coils[range(*start, usize::from(*count), 0)?].to_vec(),
            )),
            Request::WriteSingleRegister(at, value) => {
                self.registers[range(*at, 1, MEMORY_START)?].fill(*value);
                Ok(Response::WriteSingleRegister(*at, *value))
            }
            Request::WriteMultipleRegisters(at, values) => {
                self.registers[range(*at, values.len(), MEMORY_START)?].copy_from_slice(values);
                Ok(Response::WriteMultipleRegisters(
                    *at,
                    u16::try_from(values.len()).unwrap_or(END),
                ))
            }
            Request::MaskWriteRegister(at, and, or) => {
                for register in &mut self.registers[range(*at, 1, MEMORY_START)?] {
                    *register = (*register & and) | (or & !and);
                }
                Ok(Response::MaskWriteRegister(*at, *and, *or))
            }
            Request::WriteSingleCoil(at, value) => {
                self.coils[range(*at, 1, 0)?].fill(*value);
                Ok(Response::WriteSingleCoil(*at, *value))
            }
            Request::WriteMultipleCoils(at, values) => {
                self.coils[range(*at, values.len(), 0)?].copy_from_slice(values);
                Ok(Response::WriteMultipleCoils(
                    *at,
                    u16::try_from(values.len()).unwrap_or(END),
                ))
            }
            Request::ReportServerId
            | Request::ReadWriteMultipleRegisters(..)
            | Request::ReadDeviceIdentification(..)
            | Request::Custom(..) => Err(ExceptionCode::IllegalFunction),
        }
    }

    fn read(
        &mut self,
        start: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u16>, ExceptionCode> {
        let range = range(start, usize::from(count), 0)?;
        if range.contains(&usize::from(COUNTER)) {
            self.counter = self.counter.wrapping_add(1);
        }
        let counter = usize::from(COUNTER);
        self.registers[counter] = (self.counter >> 16) as u16;
        self.registers[counter + 1] = (self.counter & 0xFFFF) as u16;
        let seconds = elapsed.as_secs_f64();
        let sine = (seconds * std::f64::consts::TAU / 60.0).sin();
        self.registers[usize::from(SINE)] = (500.0 + 500.0 * sine) as u16;
        self.registers[usize::from(SAWTOOTH)] = (seconds.rem_euclid(10.0) * 100.0) as u16;
        self.registers[usize::from(SQUARE)] = u16::from(seconds.rem_euclid(2.0) >= 1.0);
        Ok(self.registers[range].to_vec())
    }
}

fn range(start: u16, count: usize, first: u16) -> Result<std::ops::Range<usize>, ExceptionCode> {
    let end = usize::from(start) + count;
    if count == 0 {
        return Err(ExceptionCode::IllegalDataValue);
    }
    if start < first || end > usize::from(END) {
        return Err(ExceptionCode::IllegalDataAddress);
    }
    Ok(usize::from(start)..end)
}

#[cfg(test)]
mod tests {
    use tokio_modbus::client::{Client, Reader, Writer, tcp};
    use tokio_modbus::slave::Slave;

    use super::*;

    #[tokio::test]
    async fn the_counter_advances_with_every_read_and_per_unit() {
        let device = Device::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut one = tcp::connect_slave(device.address(), Slave(1))
            .await
            .unwrap();
        let mut two = tcp::connect_slave(device.address(), Slave(2))
            .await
            .unwrap();
        for expected in 1..=3 {
            assert_eq!(
                one.read_holding_registers(0, 2).await.unwrap().unwrap(),
                [0, expected]
            );
        }
        assert_eq!(
            two.read_input_registers(0, 2).await.unwrap().unwrap(),
            [0, 1]
        );
        assert_eq!(
            one.read_holding_registers(2, 3)
                .await
                .unwrap()
                .unwrap()
                .len(),
            3
        );
        let counts = device.counts().borrow().clone();
        assert_eq!(counts.sessions, 2);
        assert_eq!(counts.counters, BTreeMap::from([(1, 3), (2, 1)]));
        one.disconnect().await.unwrap();
    }

    #[tokio::test]
    async fn memory_is_written_and_the_counter_is_not() {
        let device = Device::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut client = tcp::connect_slave(device.address(), Slave(1))
            .await
            .unwrap();
        client
            .write_multiple_registers(20, &[7, 8])
            .await
            .unwrap()
            .unwrap();
        client.write_single_coil(3, true).await.unwrap().unwrap();
        assert_eq!(
            client.read_holding_registers(19, 3).await.unwrap().unwrap(),
            [0, 7, 8]
        );
        assert_eq!(
            client.read_coils(2, 2).await.unwrap().unwrap(),
            [false, true]
        );
        let refused = client.write_single_register(0, 1).await.unwrap();
        assert_eq!(refused, Err(ExceptionCode::IllegalDataAddress));
        assert_eq!(
            client.read_coils(99, 2).await.unwrap(),
            Err(ExceptionCode::IllegalDataAddress)
        );
        assert_eq!(device.counts().borrow().writes, 2);
    }
}
