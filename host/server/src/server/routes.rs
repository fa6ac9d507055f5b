//! Routes. Each declares its required access and its description once; the guard and the API's description both derive
//! from that.

use super::connections::Connection;
use super::lists;
use super::path;
use super::problem::Problem;
use super::{Phase, Shared};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::Either;
use lifeboat_api::access::Grant;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Outcome;
use lifeboat_host::auth::Identity;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The access that a request requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// No token.
    Nobody,
    /// The token of any user.
    User,
    /// The token of a user with this grant on the service in the path.
    Grant(Grant),
    /// The token of an admin.
    Admin,
}

impl Needs {
    fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::User => "user",
            Self::Grant(grant) => grant.word(),
            Self::Admin => "admin",
        }
    }
}

/// The content of a body, in the API's description.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// JSON with this schema.
    Json(fn(&mut SchemaGenerator) -> Value),
    /// Bytes of this media type.
    Bytes(&'static str),
    /// Bytes of one of these media types.
    Any(&'static [&'static str]),
    /// An `application/problem+json` document.
    Problem,
}

/// A parameter, in the API's description.
struct Parameter {
    /// `path`, `query` or `header`.
    place: &'static str,
    name: &'static str,
    meaning: &'static str,
    schema: Value,
}

impl Parameter {
    /// Describes a path parameter by its name in the path.
    fn of_path(name: &'static str) -> Self {
        let (meaning, schema) = path::described(name);
        Self { place: "path", name, meaning, schema }
    }
}

/// The description of every request body. `curl -d` sends the media type of forms, and `curl -T` sends none.
const TYPE_NOT_LOOKED_AT: &str = "The header Content-Type is ignored: whatever its value, the server reads the body as \
                                  described here.";

/// The statuses of problems that many operations share.
const PROBLEMS: [(u16, &str); 9] = [
    (400, "the request does not match this description"),
    (401, "no valid token"),
    (403, "not granted"),
    (404, "not found"),
    (408, "the body did not arrive in time"),
    (409, "the request conflicts with the present state"),
    (413, "the body is too long"),
    (429, "too many requests: the header Retry-After contains the time to wait"),
    (503, "unavailable for now: the header Retry-After contains the time to wait"),
];

/// Describes JSON with the schema of `T`.
pub(super) fn json_of<T: JsonSchema>() -> Content {
    Content::Json(|generator| generator.subschema_for::<T>().to_value())
}

/// The description of one operation.
pub(super) struct Route {
    method: Method,
    path: &'static str,
    needs: Needs,
    summary: &'static str,
    description: Option<&'static str>,
    takes: Option<Content>,
    is_body_required: bool,
    parameters: Vec<Parameter>,
    gives: Vec<(u16, &'static str, Option<Content>)>,
}

impl Route {
    pub(super) fn new(method: Method, path: &'static str, needs: Needs, summary: &'static str) -> Self {
        Self {
            method,
            path,
            needs,
            summary,
            description: None,
            takes: None,
            is_body_required: true,
            parameters: Vec::new(),
            gives: Vec::new(),
        }
    }

    /// Adds a description beyond the summary and the schemas.
    pub(super) fn describes(mut self, description: &'static str) -> Self {
        self.description = Some(description);
        self
    }

    pub(super) fn takes(mut self, content: Content) -> Self {
        self.takes = Some(content);
        self
    }

    /// Declares a body that may be empty or missing.
    pub(super) fn may_take(mut self, content: Content) -> Self {
        self.is_body_required = false;
        self.takes(content)
    }

    /// Adds a parameter outside of the path.
    pub(super) fn parameter(
        mut self,
        place: &'static str,
        name: &'static str,
        meaning: &'static str,
        schema: Value,
    ) -> Self {
        self.parameters.push(Parameter { place, name, meaning, schema });
        self
    }

    pub(super) fn gives(mut self, status: u16, what: &'static str, content: Option<Content>) -> Self {
        self.gives.push((status, what, content));
        self
    }
}

/// A router, and the description of its routes.
pub(super) struct Api {
    shared: Arc<Shared>,
    router: Router<Arc<Shared>>,
    generator: SchemaGenerator,
    paths: BTreeMap<&'static str, Map<String, Value>>,
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // References of OpenAPI 3.1 point to this path.
        let mut settings = schemars::generate::SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        Self { shared, router: Router::new(), generator: settings.into_generator(), paths: BTreeMap::new() }
    }

    /// Adds a route. Only requests with the access that it requires reach `handler`.
    pub(super) fn route<T: 'static>(mut self, route: Route, handler: impl Handler<T, Arc<Shared>>) -> Self {
        self.describe(&route);
        let filter = MethodFilter::try_from(route.method).expect("a method of HTTP");
        let needs = route.needs;
        // This is not a layer, since each layer costs every request several allocations.
        let guarded = move |State(shared): State<Arc<Shared>>, parameters: PathParameters, request: Request<Body>| {
            guard(shared, needs, parameters, request, handler)
        };
        self.router = self.router.route(route.path, on(filter, guarded));
        self
    }

    /// Returns the router, with the description at `/openapi.json`.
    pub(super) fn finish(mut self) -> Router {
        let about = Route::new(Method::GET, "/openapi.json", Needs::Nobody, "This description").gives(
            200,
            "OpenAPI 3.1",
            Some(Content::Bytes("application/json")),
        );
        self.describe(&about);
        let description = Bytes::from(self.description().to_string());
        let tell = move || {
            // All responses share the same bytes, even if few clients read them.
            let description = description.clone();
            async move { ([("content-type", "application/json")], description) }
        };
        self.router
            .route(about.path, on(MethodFilter::GET, tell))
            .method_not_allowed_fallback(async || {
                Problem::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "this path does not support that method; see /openapi.json",
                )
            })
            .fallback(async || Problem::not_found("there is no such path; see /openapi.json"))
            .with_state(self.shared)
    }

    fn describe(&mut self, route: &Route) {
        let problem = self.generator.subschema_for::<lifeboat_api::http::Problem>().to_value();
        let problem = json!({ lifeboat_api::http::PROBLEM_JSON: { "schema": problem } });
        let content = |generator: &mut SchemaGenerator, content: Content| match content {
            Content::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
            Content::Bytes(media_type) => json!({ media_type: {} }),
            Content::Any(media_types) => media_types.iter().map(|media_type| (*media_type, json!({}))).collect(),
            Content::Problem => problem.clone(),
        };
        let mut responses = Map::new();
        for (status, what, body) in &route.gives {
            let mut response = json!({ "description": what });
            if let Some(body) = body {
                response["content"] = content(&mut self.generator, *body);
            }
            responses.insert(status.to_string(), response);
        }
        let in_path: Vec<Parameter> = route.path.split(['{', '}']).skip(1).step_by(2).map(Parameter::of_path).collect();
        for (status, what) in PROBLEMS {
            let may_be = match status {
                401 | 403 => route.needs != Needs::Nobody || route.takes.is_some(),
                404 => !in_path.is_empty(),
                408 | 413 => route.takes.is_some(),
                409 | 429 => route.method != Method::GET,
                _ => true,
            };
            if may_be && !responses.contains_key(&status.to_string()) {
                responses.insert(status.to_string(), json!({ "description": what, "content": problem }));
            }
        }
        responses.insert("default".into(), json!({ "description": "a problem", "content": problem }));
        let parameters: Vec<Value> = in_path
            .iter()
            .chain(&route.parameters)
            .map(|Parameter { place, name, meaning, schema }| {
                json!({
                    "in": place, "name": name, "description": meaning, "required": *place == "path", "schema": schema,
                })
            })
            .collect();
        let mut operation = json!({
            "summary": route.summary,
            "parameters": parameters,
            "responses": responses,
            "x-lifeboat-needs": route.needs.words(),
        });
        if let Some(description) = route.description {
            operation["description"] = description.into();
        }
        if route.needs != Needs::Nobody {
            operation["security"] = json!([{ "token": [] }]);
        }
        if let Some(takes) = route.takes {
            let content = content(&mut self.generator, takes);
            operation["requestBody"] = json!({
                "description": TYPE_NOT_LOOKED_AT,
                "required": route.is_body_required,
                "content": content,
            });
        }
        let method = route.method.as_str().to_ascii_lowercase();
        self.paths.entry(route.path).or_default().insert(method, operation);
    }

    fn description(&mut self) -> Value {
        let schemas: Map<String, Value> = self.generator.take_definitions(true);
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Lifeboat",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Runs stateful WebAssembly programs in metered virtual machines and fails them over \
                                with nothing lost. `x-lifeboat-needs` names the access that an operation requires: \
                                nobody, user, a grant on the service, or admin.",
            },
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            },
        })
    }
}

/// The values of the path parameters, or a rejection if they are not UTF-8.
type PathParameters = Result<RawPathParams, RawPathParamsRejection>;

/// Passes a request with the required access to the handler. The body is not read before that.
fn guard<T: 'static>(
    shared: Arc<Shared>,
    needs: Needs,
    parameters: PathParameters,
    mut request: Request<Body>,
    handler: impl Handler<T, Arc<Shared>>,
) -> impl Future<Output = Response> + Send {
    let admitted = match needs {
        Needs::Nobody => parameters.map(drop).map_err(|_| not_text()),
        _ => {
            admit(&shared, needs, &parameters, &request).map(|identity| drop(request.extensions_mut().insert(identity)))
        }
    };
    // A `GET` has no effect and can be repeated.
    let looks = (request.method() == Method::GET)
        .then(|| (Arc::clone(&shared), request.extensions().get::<Identity>().cloned()));
    match admitted {
        // The panic is printed. It can only interrupt the request of one client: services and the journal run in tasks
        // of their own.
        Ok(()) => Either::Left(AssertUnwindSafe(handler.call(request, shared)).catch_unwind().map(|response| {
            let response = response.unwrap_or_else(|_| Problem::internal().into_response());
            match looks {
                Some((shared, identity)) => lists::counted(response, || lists::account(&shared, identity.as_ref())),
                None => response,
            }
        })),
        Err(problem) => Either::Right(std::future::ready(problem.into_response())),
    }
}

/// Admits a request or returns the problem. The problem of a request to a guest has the outcome `denied`; any other has
/// none.
///
/// A look-up has none because it concerns another request, about which nothing is known.
fn admit(
    shared: &Shared,
    needs: Needs,
    parameters: &PathParameters,
    request: &Request<Body>,
) -> Result<Identity, Problem> {
    let is_for_guest = needs == Needs::Grant(Grant::Transact) && request.method() != Method::GET;
    authorise(shared, needs, parameters, request)
        .map_err(|problem| if is_for_guest { problem.with_outcome(Outcome::Denied) } else { problem.without_outcome() })
}

fn authorise(
    shared: &Shared,
    needs: Needs,
    parameters: &PathParameters,
    request: &Request<Body>,
) -> Result<Identity, Problem> {
    let not_now = match shared.phase() {
        Phase::Serving => None,
        // A recovered service does not wait for the others: compiling one may take minutes.
        Phase::Starting if is_for_running_service(shared, needs, parameters) => None,
        Phase::Starting => Some(Problem::later("starting", "services are being restored; try again soon")),
        Phase::Draining => Some(Problem::later("draining", "the server is stopping; try again when it has restarted")),
    };
    if let Some(problem) = not_now {
        return Err(problem);
    }
    let identity = shared.host.authenticate(token(request.headers())?)?;
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.authenticated();
    }
    // Only an authenticated user learns that the path is not text.
    let parameters = parameters.as_ref().map_err(|_| not_text())?;
    match needs {
        Needs::Nobody | Needs::User => {}
        Needs::Admin => shared.host.authorise_admin(&identity)?,
        Needs::Grant(grant) => shared.host.authorise(&identity, service(parameters), grant)?,
    }
    // A user without the grant gets the same answer for every name.
    for (name, value) in parameters {
        path::check(name, value)?;
    }
    Ok(identity)
}

/// Returns the service in a path.
fn service(parameters: &RawPathParams) -> &str {
    parameters.iter().find(|(name, _)| *name == "name").map_or("", |(_, service)| service)
}

/// Returns whether a request is for a single service that is running.
fn is_for_running_service(shared: &Shared, needs: Needs, parameters: &PathParameters) -> bool {
    let name = parameters.as_ref().ok().and_then(|parameters| Name::new(service(parameters)).ok());
    matches!(needs, Needs::Grant(_)) && name.is_some_and(|name| shared.host.has_service(&name))
}

/// Returns the token of a request. An empty token belongs to nobody.
fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Problem::from(lifeboat_api::transaction::Denial::NotAuthenticated {
            reason: "the request has no header 'Authorization: Bearer TOKEN'",
        }));
    };
    // A proxy in front of the server may have checked a different one of them.
    if values.next().is_some() {
        return Err(Problem::from(lifeboat_api::transaction::Denial::NotAuthenticated {
            reason: "the request has more than one header 'Authorization'; send one",
        }));
    }
    let text = value.to_str().unwrap_or("");
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Problem::from(lifeboat_api::transaction::Denial::NotAuthenticated {
            reason: "the header is not 'Authorization: Bearer TOKEN'",
        }));
    }
    Ok(token.trim())
}

fn not_text() -> Problem {
    Problem::bad_request("not_text", "the path has percent-encoded bytes that are not UTF-8; write text")
}
