//! Random calls of `wasi:http/types` here and in wasmtime-wasi-http: the results must be the same.
//!
//! `cargo test --release -p lifeboat-vm --features as-wasmtime as_wasmtime` runs them.
//!
//! Excluded is what differs on purpose: `outgoing-handler`, bodies and totals beyond their bounds, streams of an earlier
//! call, and what only a response from the network has.

use super::super::{CallContext, Inputs, Phase};
use super::Wasi;
use super::error::{HeaderFailure, HttpError, StreamCode};
use super::fields::{FIELD_NAME_BYTES, FIELD_VALUE_BYTES, FIELDS_BYTES_MAX, Fields};
use super::inbound::OutgoingResponse;
use super::outgoing_body::OutgoingBody;
use super::outgoing_request::OutgoingRequest;
use crate::network::Network;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_disk::Disk;
use proptest::prelude::*;
use std::fmt::Debug;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi_http::p2::bindings::http::types as theirs;
use wasmtime_wasi_http::p2::{HeaderError, HttpError as TheirError};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks};
use wasmtime_wasi_io::bindings::wasi::io::streams::HostOutputStream;
use wasmtime_wasi_io::streams::{DynOutputStream, StreamError};

const NAMES: [&str; 13] = [
    "a",
    "A",
    "b",
    "x-long-name-that-no-table-of-standard-names-has-and-that-is-longer-than-64",
    "content-length",
    "Content-Length",
    "content-type",
    "host",
    "Connection",
    "http2-settings",
    "",
    "a b",
    "\u{e9}",
];

const VALUES: [&[u8]; 14] = [
    b"",
    b"text",
    b"a, b",
    b"0",
    b"3",
    b"12",
    b"007",
    b"+5",
    b" 5",
    b"99999999999999999999",
    b"\x80\xff",
    b"\n",
    b"\x00",
    &[b'v'; 30_000],
];

const METHODS: [&str; 7] = ["get", "patch", "GET", "PURGE", "", "a b", "\u{e9}"];

const PATHS: [Option<&str>; 12] = [
    None,
    Some(""),
    Some("/"),
    Some("/a?b=c"),
    Some("?q"),
    Some("/a#b"),
    Some("x"),
    Some("*"),
    Some("http://example.org/"),
    Some("/ a"),
    Some("/\u{e9}"),
    Some("/\u{7f}"),
];

const SCHEMES: [Option<&str>; 8] =
    [None, Some("http"), Some("https"), Some("ftp"), Some("HTTP"), Some(""), Some("1x"), Some("a:b")];

const AUTHORITIES: [Option<&str>; 12] = [
    None,
    Some(""),
    Some("example.org"),
    Some("example.org:80"),
    Some("user@example.org"),
    Some("[::1]:80"),
    Some("[::1"),
    Some("a b"),
    Some("a/b"),
    Some("a:b:c"),
    Some("a?b"),
    Some("\u{e9}"),
];

/// The resources of a kind that exist at once.
const OPEN_MAX: usize = 4;

type Entry = (&'static str, &'static [u8]);

#[derive(Debug, Clone)]
enum Step {
    NewFields,
    FromList(Vec<Entry>),
    Get(usize, &'static str),
    Has(usize, &'static str),
    Set(usize, &'static str, Vec<&'static [u8]>),
    Delete(usize, &'static str),
    Append(usize, Entry),
    Entries(usize),
    CloneFields(usize),
    DropFields(usize),
    NewRequest(usize),
    Method(usize),
    SetMethod(usize, &'static str),
    Path(usize),
    SetPath(usize, Option<&'static str>),
    Scheme(usize),
    SetScheme(usize, Option<&'static str>),
    Authority(usize),
    SetAuthority(usize, Option<&'static str>),
    RequestHeaders(usize),
    RequestBody(usize),
    DropRequest(usize),
    NewResponse(usize),
    Status(usize),
    SetStatus(usize, u16),
    ResponseHeaders(usize),
    ResponseBody(usize),
    DropResponse(usize),
    OpenStream(usize),
    CheckWrite(usize),
    Write(usize, Vec<u8>),
    Flush(usize),
    DropStream(usize),
    Finish(usize, Option<usize>),
    DropBody(usize),
    Options([Option<u64>; 3]),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use prop::sample::select;
    let at = 0..OPEN_MAX;
    let name = select(&NAMES[..]);
    let value = select(&VALUES[..]);
    let entry = (name.clone(), value.clone());
    let bytes = prop_oneof![6 => prop::collection::vec(any::<u8>(), 0..8), 1 => Just(vec![7; 64 * 1024])];
    let fields = prop_oneof![
        2 => Just(Step::NewFields),
        2 => prop::collection::vec(entry.clone(), 0..5).prop_map(Step::FromList),
        2 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Get(at, name)),
        1 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Has(at, name)),
        4 => (at.clone(), name.clone(), prop::collection::vec(value, 0..4))
            .prop_map(|(at, name, values)| Step::Set(at, name, values)),
        3 => (at.clone(), name).prop_map(|(at, name)| Step::Delete(at, name)),
        6 => (at.clone(), entry).prop_map(|(at, entry)| Step::Append(at, entry)),
        3 => at.clone().prop_map(Step::Entries),
        2 => at.clone().prop_map(Step::CloneFields),
        1 => at.clone().prop_map(Step::DropFields),
    ];
    let requests = prop_oneof![
        4 => at.clone().prop_map(Step::NewRequest),
        1 => at.clone().prop_map(Step::Method),
        2 => (at.clone(), select(&METHODS[..])).prop_map(|(at, method)| Step::SetMethod(at, method)),
        1 => at.clone().prop_map(Step::Path),
        2 => (at.clone(), select(&PATHS[..])).prop_map(|(at, path)| Step::SetPath(at, path)),
        1 => at.clone().prop_map(Step::Scheme),
        2 => (at.clone(), select(&SCHEMES[..])).prop_map(|(at, scheme)| Step::SetScheme(at, scheme)),
        1 => at.clone().prop_map(Step::Authority),
        2 => (at.clone(), select(&AUTHORITIES[..])).prop_map(|(at, authority)| Step::SetAuthority(at, authority)),
        2 => at.clone().prop_map(Step::RequestHeaders),
        4 => at.clone().prop_map(Step::RequestBody),
        1 => at.clone().prop_map(Step::DropRequest),
        1 => any::<[Option<u64>; 3]>().prop_map(Step::Options),
    ];
    let responses = prop_oneof![
        3 => at.clone().prop_map(Step::NewResponse),
        1 => at.clone().prop_map(Step::Status),
        1 => (at.clone(), prop_oneof![0..1100u16, any::<u16>()]).prop_map(|(at, status)| Step::SetStatus(at, status)),
        1 => at.clone().prop_map(Step::ResponseHeaders),
        3 => at.clone().prop_map(Step::ResponseBody),
        1 => at.clone().prop_map(Step::DropResponse),
    ];
    let bodies = prop_oneof![
        4 => at.clone().prop_map(Step::OpenStream),
        1 => at.clone().prop_map(Step::CheckWrite),
        5 => (at.clone(), bytes).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        1 => at.clone().prop_map(Step::Flush),
        4 => at.clone().prop_map(Step::DropStream),
        3 => (at.clone(), prop::option::of(0..OPEN_MAX)).prop_map(|(at, trailers)| Step::Finish(at, trailers)),
        1 => at.prop_map(Step::DropBody),
    ];
    prop::collection::vec(prop_oneof![4 => fields, 2 => requests, 1 => responses, 3 => bodies], 1..120)
}

/// What wasmtime-wasi-http asks of its host: bodies have room for all writes of a test.
struct Hooks;

type Sent = Result<(::http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: ::http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        1_000
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        super::super::WRITE_BYTES_MAX
    }
}

struct Theirs {
    table: ResourceTable,
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

impl Theirs {
    fn new() -> Self {
        Self { table: ResourceTable::new(), ctx: WasiHttpCtx::new(), hooks: Hooks }
    }

    fn view(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.ctx }
    }
}

fn ours() -> Wasi {
    let mut ours = Wasi::new([7; 32], 10_000, Disk::new(0), 1 << 20);
    let context =
        CallContext { phase: Phase::Execute, sequence: Sequence(1), epoch: Epoch::default(), now: Timestamp(1) };
    ours.enter(context, Inputs::Replay, 1 << 20, Network::None);
    ours
}

/// The resources that one of the implementations has open.
struct Open<F: 'static, Q: 'static, P: 'static, B: 'static> {
    fields: Vec<Resource<F>>,
    requests: Vec<Resource<Q>>,
    responses: Vec<Resource<P>>,
    bodies: Vec<(Resource<B>, Option<Resource<DynOutputStream>>)>,
}

impl<F, Q, P, B> Open<F, Q, P, B> {
    fn new() -> Self {
        Self { fields: Vec::new(), requests: Vec::new(), responses: Vec::new(), bodies: Vec::new() }
    }
}

fn again<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

/// Begins the text of an outcome after which the guest is no more.
const TRAP: &str = "trap";

fn shown<T: Debug, E>(result: Result<T, E>, error: impl Fn(E) -> String) -> String {
    result.map_or_else(error, |value| format!("{value:?}"))
}

fn our_stream(error: StreamError) -> String {
    match error {
        StreamError::LastOperationFailed(error) => {
            format!("{:?}", error.downcast_ref::<StreamCode>().expect("a code").0)
        }
        StreamError::Closed => "closed".into(),
        StreamError::Trap(_) => TRAP.into(),
    }
}

fn their_stream(error: StreamError) -> String {
    match error {
        StreamError::LastOperationFailed(error) => {
            format!("{:?}", error.downcast_ref::<theirs::ErrorCode>().expect("a code"))
        }
        StreamError::Closed => "closed".into(),
        StreamError::Trap(_) => TRAP.into(),
    }
}

/// Runs a step against one of the implementations, which differ in their types. Evaluates to the outcome as text.
macro_rules! run {
    ($step:expr, $host:expr, $io:expr, $open:expr, $types:path, $header:expr, $code:expr, $stream:expr) => {{
        use $types::{
            HostFields, HostOutgoingBody, HostOutgoingRequest, HostOutgoingResponse, HostRequestOptions, Method, Scheme,
        };
        let open = $open;
        /// Evaluates to a resource of a kind, or ends the step.
        macro_rules! at {
            ($kind:ident, $index:expr) => {
                match open.$kind.len() {
                    0 => return String::new(),
                    count => $index % count,
                }
            };
        }
        macro_rules! fields {
            ($index:expr) => {
                again(&open.fields[at!(fields, $index)])
            };
        }
        macro_rules! request {
            ($index:expr) => {
                again(&open.requests[at!(requests, $index)])
            };
        }
        macro_rules! response {
            ($index:expr) => {
                again(&open.responses[at!(responses, $index)])
            };
        }
        macro_rules! stream {
            ($index:expr) => {
                match &open.bodies[at!(bodies, $index)].1 {
                    Some(stream) => again(stream),
                    None => return String::new(),
                }
            };
        }
        /// Ends the step if no more resources of a kind may be open.
        macro_rules! room {
            ($kind:ident) => {
                if open.$kind.len() == OPEN_MAX {
                    return String::new();
                }
            };
        }
        macro_rules! opened {
            ($kind:ident, $result:expr, $error:expr) => {
                match $result {
                    Ok(resource) => {
                        open.$kind.push(resource);
                        "opened".to_owned()
                    }
                    Err(error) => $error(error),
                }
            };
        }
        let never = |error: wasmtime::Error| -> String { panic!("{error}") };
        let unit = |()| "refused".to_owned();
        let texts = |text: &Option<&'static str>| text.map(str::to_owned);
        match $step {
            Step::NewFields => {
                room!(fields);
                opened!(fields, HostFields::new($host), never)
            }
            Step::FromList(entries) => {
                room!(fields);
                let entries = entries.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
                opened!(fields, HostFields::from_list($host, entries), $header)
            }
            Step::Get(at, name) => shown(HostFields::get($host, fields!(*at), (*name).into()), never),
            Step::Has(at, name) => shown(HostFields::has($host, fields!(*at), (*name).into()), never),
            Step::Set(at, name, values) => {
                let values = values.iter().map(|value| value.to_vec()).collect();
                shown(HostFields::set($host, fields!(*at), (*name).into(), values), $header)
            }
            Step::Delete(at, name) => shown(HostFields::delete($host, fields!(*at), (*name).into()), $header),
            Step::Append(at, (name, value)) => {
                shown(HostFields::append($host, fields!(*at), (*name).into(), value.to_vec()), $header)
            }
            Step::Entries(at) => shown(HostFields::entries($host, fields!(*at)), never),
            Step::CloneFields(at) => {
                room!(fields);
                opened!(fields, HostFields::clone($host, fields!(*at)), never)
            }
            Step::DropFields(at) => {
                let fields = open.fields.remove(at!(fields, *at));
                shown(HostFields::drop($host, fields), never)
            }
            Step::NewRequest(at) => {
                room!(requests);
                let headers = open.fields.remove(at!(fields, *at));
                opened!(requests, HostOutgoingRequest::new($host, headers), never)
            }
            Step::Method(at) => shown(HostOutgoingRequest::method($host, request!(*at)), never),
            Step::SetMethod(at, method) => {
                let method = match *method {
                    "get" => Method::Get,
                    "patch" => Method::Patch,
                    other => Method::Other(other.into()),
                };
                shown(HostOutgoingRequest::set_method($host, request!(*at), method).expect("a request"), unit)
            }
            Step::Path(at) => shown(HostOutgoingRequest::path_with_query($host, request!(*at)), never),
            Step::SetPath(at, path) => shown(
                HostOutgoingRequest::set_path_with_query($host, request!(*at), texts(path)).expect("a request"),
                unit,
            ),
            Step::Scheme(at) => shown(HostOutgoingRequest::scheme($host, request!(*at)), never),
            Step::SetScheme(at, scheme) => {
                let scheme = scheme.map(|scheme| match scheme {
                    "http" => Scheme::Http,
                    "https" => Scheme::Https,
                    other => Scheme::Other(other.into()),
                });
                shown(HostOutgoingRequest::set_scheme($host, request!(*at), scheme).expect("a request"), unit)
            }
            Step::Authority(at) => shown(HostOutgoingRequest::authority($host, request!(*at)), never),
            Step::SetAuthority(at, authority) => shown(
                HostOutgoingRequest::set_authority($host, request!(*at), texts(authority)).expect("a request"),
                unit,
            ),
            Step::RequestHeaders(at) => {
                room!(fields);
                opened!(fields, HostOutgoingRequest::headers($host, request!(*at)), never)
            }
            Step::RequestBody(at) => {
                room!(bodies);
                let body = HostOutgoingRequest::body($host, request!(*at)).expect("a request");
                opened!(bodies, body.map(|body| (body, None)), unit)
            }
            Step::DropRequest(at) => {
                let request = open.requests.remove(at!(requests, *at));
                shown(HostOutgoingRequest::drop($host, request), never)
            }
            Step::NewResponse(at) => {
                room!(responses);
                let headers = open.fields.remove(at!(fields, *at));
                opened!(responses, HostOutgoingResponse::new($host, headers), never)
            }
            Step::Status(at) => shown(HostOutgoingResponse::status_code($host, response!(*at)), never),
            Step::SetStatus(at, status) => {
                shown(HostOutgoingResponse::set_status_code($host, response!(*at), *status).expect("a response"), unit)
            }
            Step::ResponseHeaders(at) => {
                room!(fields);
                opened!(fields, HostOutgoingResponse::headers($host, response!(*at)), never)
            }
            Step::ResponseBody(at) => {
                room!(bodies);
                let body = HostOutgoingResponse::body($host, response!(*at)).expect("a response");
                opened!(bodies, body.map(|body| (body, None)), unit)
            }
            Step::DropResponse(at) => {
                let response = open.responses.remove(at!(responses, *at));
                shown(HostOutgoingResponse::drop($host, response), never)
            }
            Step::OpenStream(at) => {
                let at = at!(bodies, *at);
                let (body, stream) = &mut open.bodies[at];
                match HostOutgoingBody::write($host, again(body)).expect("a body") {
                    Ok(opened) => {
                        *stream = Some(opened);
                        "opened".into()
                    }
                    Err(()) => "refused".into(),
                }
            }
            Step::CheckWrite(at) => {
                let stream = stream!(*at);
                shown(HostOutputStream::check_write($io, stream), $stream)
            }
            Step::Write(at, bytes) => {
                let stream = stream!(*at);
                shown(HostOutputStream::write($io, stream, bytes.clone()), $stream)
            }
            Step::Flush(at) => {
                let stream = stream!(*at);
                shown(HostOutputStream::flush($io, stream), $stream)
            }
            Step::DropStream(at) => {
                let at = at!(bodies, *at);
                match open.bodies[at].1.take() {
                    Some(stream) => shown(futures::executor::block_on(HostOutputStream::drop($io, stream)), never),
                    None => String::new(),
                }
            }
            Step::Finish(at, trailers) => {
                let at = at!(bodies, *at);
                if open.bodies[at].1.is_some() {
                    // Both trap.
                    return String::new();
                }
                let trailers = match trailers {
                    Some(trailers) => Some(open.fields.remove(at!(fields, trailers))),
                    None => None,
                };
                let (body, _) = open.bodies.remove(at);
                shown(HostOutgoingBody::finish($host, body, trailers), $code)
            }
            Step::DropBody(at) => {
                let at = at!(bodies, *at);
                if open.bodies[at].1.is_some() {
                    return String::new();
                }
                let (body, _) = open.bodies.remove(at);
                shown(HostOutgoingBody::drop($host, body), never)
            }
            Step::Options([connect, first, between]) => {
                let options = HostRequestOptions::new($host).expect("options");
                let mut text = String::new();
                text += &shown(HostRequestOptions::set_connect_timeout($host, again(&options), *connect), never);
                text += &shown(HostRequestOptions::set_first_byte_timeout($host, again(&options), *first), never);
                text += &shown(HostRequestOptions::set_between_bytes_timeout($host, again(&options), *between), never);
                text += &shown(HostRequestOptions::connect_timeout($host, again(&options)), never);
                text += &shown(HostRequestOptions::first_byte_timeout($host, again(&options)), never);
                text += &shown(HostRequestOptions::between_bytes_timeout($host, again(&options)), never);
                text + &shown(HostRequestOptions::drop($host, options), never)
            }
        }
    }};
}

type OurOpen = Open<Fields, OutgoingRequest, OutgoingResponse, OutgoingBody>;

fn run_ours(step: &Step, host: &mut Wasi, open: &mut OurOpen) -> String {
    let header = |error| match error {
        HeaderFailure::Code(code) => format!("{code:?}"),
        HeaderFailure::Trap(_) => TRAP.into(),
    };
    let code = |error| match error {
        HttpError::Code(code) => format!("{code:?}"),
        HttpError::Trap(error) => panic!("{error}"),
    };
    run!(step, &mut *host, &mut *host, open, super::types, header, code, our_stream)
}

fn run_theirs(
    step: &Step,
    host: &mut Theirs,
    open: &mut Open<theirs::Fields, theirs::OutgoingRequest, theirs::OutgoingResponse, theirs::OutgoingBody>,
) -> String {
    let header = |error: HeaderError| error.downcast().map_or(TRAP.into(), |code| format!("{code:?}"));
    let code = |error: TheirError| format!("{:?}", error.downcast().expect("no trap"));
    run!(step, &mut host.view(), &mut host.table, open, theirs, header, code, their_stream)
}

fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut ours, mut their) = (ours(), Theirs::new());
    let (mut our_open, mut their_open) = (Open::new(), Open::new());
    for (index, step) in steps.iter().enumerate() {
        let (our, their) = (run_ours(step, &mut ours, &mut our_open), run_theirs(step, &mut their, &mut their_open));
        prop_assert_eq!(&our, &their, "ours, theirs, step {} {:?}", index, step);
        if our == TRAP {
            return Ok(());
        }
    }
    // Nothing of what was dropped still counts.
    drop_all(&mut ours, our_open);
    prop_assert_eq!((ours.http.held_bytes, ours.http.bodies.len()), (0, 0));
    Ok(())
}

fn drop_all(ours: &mut Wasi, open: OurOpen) {
    for request in open.requests {
        super::types::HostOutgoingRequest::drop(ours, request).expect("a request");
    }
    for (body, stream) in open.bodies {
        if let Some(stream) = stream {
            futures::executor::block_on(HostOutputStream::drop(ours, stream)).expect("a stream");
        }
        super::types::HostOutgoingBody::drop(ours, body).expect("a body");
    }
    for response in open.responses {
        super::types::HostOutgoingResponse::drop(ours, response).expect("a response");
    }
    for fields in open.fields {
        super::types::HostFields::drop(ours, fields).expect("fields");
    }
}

proptest! {
    #[test]
    fn http_answers_as_wasmtime_does(steps in steps()) {
        compare(&steps)?;
    }
}

#[test]
fn fields_are_full_when_those_of_wasmtime_are() {
    const NAME: &str = "name";
    let value_bytes = FIELDS_BYTES_MAX - NAME.len() - FIELD_NAME_BYTES - FIELD_VALUE_BYTES;
    for (len, is_full) in [(value_bytes - FIELD_VALUE_BYTES, false), (value_bytes, false), (value_bytes + 1, true)] {
        let (mut ours, mut theirs) = (ours(), Theirs::new());
        let entries = || vec![(NAME.to_owned(), vec![b'v'; len])];
        let our = super::types::HostFields::from_list(&mut ours, entries());
        let their = theirs::HostFields::from_list(&mut theirs.view(), entries());
        assert_eq!((our.is_err(), their.is_err()), (is_full, is_full), "{len}");
    }
}
