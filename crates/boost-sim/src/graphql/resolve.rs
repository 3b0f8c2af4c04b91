//! Answers GraphQL operations from the world.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::execution::{fail, start_thread};
use crate::graphql::deal::{deal_field, deal_json, readable};
use crate::graphql::parse::{Field, Kind, Operation, parse};
use crate::graphql::selection::{big, object, pick};
use crate::graphql::tokens::RequestError;
use crate::graphql::validate::validate;
use crate::inner::Inner;
use crate::record::{Checkpoint, go_time};
use crate::store::{Cursor, Filter, Listing};
use crate::world::World;
use crate::{publishing, uuid};

/// Source: boost v2.5.2 `gql/resolver.go`: the limit of a list without one.
const LIMIT: usize = 10;

/// A parsed request.
#[derive(Debug)]
pub(crate) struct Request {
    operation: Result<Operation, RequestError>,
    variables: Map<String, Value>,
}

impl Request {
    /// Reads the body's `query`, `operationName` and `variables`.
    pub(crate) fn read(body: &Value) -> Self {
        let text = body.get("query").and_then(Value::as_str).unwrap_or_default();
        let wanted = body.get("operationName").and_then(Value::as_str).filter(|name| !name.is_empty());
        let operation = parse(text).and_then(|operations| choose(operations, wanted));
        let mut variables = body.get("variables").and_then(Value::as_object).cloned().unwrap_or_default();
        for variable in operation.iter().flat_map(|operation| &operation.variables) {
            if let Some(default) = &variable.default
                && !variables.contains_key(&variable.name)
            {
                let value = default.value(&Map::new()).unwrap_or_default();
                variables.insert(variable.name.clone(), value);
            }
        }
        Self { operation, variables }
    }

    /// The name of the first field, by which calls are logged.
    pub(crate) fn method(&self) -> &str {
        let operation = self.operation.as_ref().ok();
        operation.and_then(|operation| operation.fields.first()).map_or("", |field| &field.name)
    }

    /// The answer: `{"data"}` or `{"errors"}`.
    pub(crate) fn answer(&self, inner: &Arc<Inner>) -> Value {
        let operation = match &self.operation {
            Ok(operation) => operation,
            Err(error) => return errors_json(std::slice::from_ref(error)),
        };
        let root = match operation.kind {
            Kind::Query => "RootQuery",
            Kind::Mutation => "RootMutation",
            Kind::Subscription => {
                let message = "graphql-ws protocol header is missing".to_owned();
                return errors_json(&[RequestError { message, place: None }]);
            }
        };
        let mut errors = Vec::new();
        validate(root, &operation.fields, inner.config.version, &mut errors);
        if !errors.is_empty() {
            return errors_json(&errors);
        }
        let mut failures = Vec::new();
        let data = inner.with(|world| {
            object(root, &operation.fields, |field| {
                let call = Call { inner, field, variables: &self.variables };
                call.value(world).unwrap_or_else(|message| {
                    failures.push(json!({ "message": message, "path": [field.alias] }));
                    Value::Null
                })
            })
        });
        if failures.is_empty() {
            return json!({ "data": data });
        }
        // Only `deal` may be null; any other failure makes the whole data null.
        let nullable = operation.fields.iter().all(|field| field.name == "deal");
        json!({ "errors": failures, "data": if nullable { data } else { Value::Null } })
    }
}

fn choose(operations: Vec<Operation>, wanted: Option<&str>) -> Result<Operation, RequestError> {
    let error = |message: String| RequestError { message, place: None };
    let count = operations.len();
    let mut operations = operations.into_iter();
    match wanted {
        Some(name) => operations
            .find(|operation| operation.name.as_deref() == Some(name))
            .ok_or_else(|| error(format!("no operation with name {name:?}"))),
        None if count > 1 => {
            Err(error("more than one operation in query document and no operation name given".to_owned()))
        }
        None => operations.next().ok_or_else(|| error("no operations in query document".to_owned())),
    }
}

fn errors_json(errors: &[RequestError]) -> Value {
    let errors: Vec<Value> = errors
        .iter()
        .map(|error| match error.place {
            Some(place) => json!({
                "message": error.message,
                "locations": [{ "line": place.line, "column": place.column }],
            }),
            None => json!({ "message": error.message }),
        })
        .collect();
    json!({ "errors": errors })
}

/// One field of a root type with its arguments.
struct Call<'a> {
    inner: &'a Arc<Inner>,
    field: &'a Field,
    variables: &'a Map<String, Value>,
}

impl Call<'_> {
    fn argument(&self, name: &str) -> Option<Value> {
        let (_name, literal) = self.field.arguments.iter().find(|(given, _literal)| given == name)?;
        literal.value(self.variables).filter(|value| !value.is_null())
    }

    /// A count above zero, else the default.
    fn count(&self, name: &str, default: usize) -> usize {
        let given = self.argument(name).and_then(|value| value.as_u64()).filter(|count| *count > 0);
        given.and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
    }

    fn id(&self) -> Result<String, String> {
        let given = match self.argument("id") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        uuid::parse(&given).map_err(|error| format!("parsing graphql ID '{given}' as UUID: {error}"))
    }

    fn value(&self, world: &mut World) -> Result<Value, String> {
        let selected = &self.field.fields;
        let config = world.config.clone();
        Ok(match self.field.name.as_str() {
            "epoch" => {
                let whole = json!({ "Epoch": big(world.head()), "SecondsPerEpoch": 30 });
                pick("EpochInfo", selected, &whole)
            }
            "minerAddress" => {
                let miner = world.miner.print(config.network_prefix);
                if selected.is_empty() {
                    json!(miner)
                } else {
                    pick("MinerAddress", selected, &json!({ "MinerID": miner, "IsCurio": false }))
                }
            }
            "deal" => {
                let uuid = self.id()?;
                let deal = world.store.by_uuid(&uuid).ok_or(NO_ROW)?;
                readable(deal)?;
                deal_json(world, deal, selected)
            }
            "deals" => self.deals(world)?,
            "dealsCount" => json!(world.store.len()),
            "storage" => {
                let whole = json!({
                    "Staged": big(0), "Transferred": big(0), "Pending": big(0), "Free": big(0),
                    "MountPoint": "/var/lib/boost/incoming",
                });
                pick("Storage", selected, &whole)
            }
            "funds" => funds(world, selected),
            "fundsLogs" => self.funds_logs(world),
            "dealPublish" => deal_publish(world, selected),
            "storageAsk" => {
                let ask = &config.ask;
                let whole = json!({
                    "Price": big(ask.price), "VerifiedPrice": big(ask.verified_price),
                    "MinPieceSize": big(ask.min_piece_size), "MaxPieceSize": big(ask.max_piece_size),
                    "ExpiryEpoch": big(ASK_EXPIRY), "ExpiryTime": go_time(std::time::SystemTime::now()),
                });
                pick("StorageAsk", selected, &whole)
            }
            "libp2pAddrInfo" => {
                let whole = json!({
                    "Addresses": [], "PeerID": lotus_sim::peer_id(&config.miner),
                    "Protocols": ["/fil/storage/mk/1.2.0", "/fil/storage/mk/1.2.1"],
                });
                pick("Libp2pAddrInfo", selected, &whole)
            }
            "dealPublishNow" => {
                publishing::send(world);
                json!(true)
            }
            "dealRetryPaused" => self.change(world, Change::Retry)?,
            "dealFailPaused" => self.change(world, Change::Fail)?,
            "dealCancel" => self.change(world, Change::Cancel)?,
            other => return Err(format!("boost-sim does not answer {other}")),
        })
    }

    fn deals(&self, world: &World) -> Result<Value, String> {
        let given = self.argument("filter").unwrap_or_default();
        let flag = |name: &str| given.get(name).and_then(Value::as_bool);
        let checkpoint = match given.get("Checkpoint").and_then(Value::as_str) {
            Some(name) => {
                Some(Checkpoint::from_name(name).ok_or_else(|| format!("unknown checkpoint {name}"))?)
            }
            None => None,
        };
        let transfer_type = given.get("TransferType").and_then(Value::as_str);
        let cursor = match self.argument("cursor") {
            None => Cursor::Newest,
            Some(uuid) => {
                let deal = uuid.as_str().and_then(|uuid| world.store.by_uuid(uuid));
                deal.map_or(Cursor::Unknown, |deal| Cursor::Deal(deal.index))
            }
        };
        let text = |value: Value| value.as_str().map(str::to_owned);
        let listing = Listing {
            query: self.argument("query").and_then(text).filter(|query| !query.is_empty()),
            filter: Filter {
                checkpoint,
                is_offline: flag("IsOffline"),
                is_verified: flag("IsVerified"),
                nothing: transfer_type.is_some_and(|wanted| wanted != "manual"),
            },
            cursor,
            offset: self.count("offset", 0),
            limit: self.count("limit", LIMIT),
        };
        let page = world.store.page(&listing);
        for deal in page.deals.iter().filter_map(|index| world.store.get(*index)) {
            readable(deal)?;
        }
        Ok(object("DealList", &self.field.fields, |field| match field.name.as_str() {
            "totalCount" => json!(page.total),
            "more" => json!(page.more),
            _ => page
                .deals
                .iter()
                .filter_map(|index| world.store.get(*index))
                .map(|deal| deal_json(world, deal, &field.fields))
                .collect(),
        }))
    }

    fn funds_logs(&self, world: &World) -> Value {
        let total = world.funds.log().len();
        let (offset, limit) = (self.count("offset", 0), self.count("limit", LIMIT));
        // Milliseconds since 1970.
        let cursor = self.argument("cursor").and_then(|cursor| match cursor {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        });
        let lines = world.funds.log_backwards().filter(|line| cursor.is_none_or(|until| line.at_ms <= until));
        let mut page: Vec<_> = lines.skip(offset).take(limit + 1).collect();
        let more = page.len() > limit;
        page.truncate(limit);
        object("FundsLogList", &self.field.fields, |field| match field.name.as_str() {
            "totalCount" => json!(total),
            "more" => json!(more),
            _ => page
                .iter()
                .map(|line| {
                    let whole = json!({
                        "DealUUID": line.uuid, "CreatedAt": go_time(line.at), "Amount": big(line.amount),
                        "Text": line.text,
                    });
                    pick("FundsLog", &field.fields, &whole)
                })
                .collect(),
        })
    }

    /// Retries, fails or cancels a deal. Source: boost v2.5.2 `storagemarket/provider_loop.go`
    /// (`updateRetryStateChan`) and `provider.go` (`CancelOfflineDealAwaitingImport`).
    fn change(&self, world: &mut World, change: Change) -> Result<Value, String> {
        const FAILED: &str = "user manually terminated the deal";
        let uuid = self.id()?;
        let by_id = || match change {
            Change::Cancel => NO_ROW.to_owned(),
            Change::Retry | Change::Fail => format!("getting deal from db by id: {NO_ROW}"),
        };
        let mut deal = world.store.by_uuid(&uuid).cloned().ok_or_else(by_id)?;
        let is_running = world.is_running(deal.index);
        if change == Change::Cancel {
            if !deal.is_offline {
                return Err("deal handler not found".to_owned());
            }
            if !deal.inbound_file_path.is_empty() {
                return Err("deal has already started importing data".to_owned());
            }
            if is_running {
                return Err("deal is already running".to_owned());
            }
        }
        if deal.checkpoint == Checkpoint::Complete {
            return Err("deal is already complete".to_owned());
        }
        if change == Change::Retry {
            start_thread(self.inner, world, deal);
        } else if is_running {
            return Err(format!("the deal {uuid} is running; cannot fail running deal"));
        } else if let Some(life) = world.life() {
            fail(world, life.number, &mut deal, FAILED.to_owned());
        }
        Ok(json!(uuid))
    }
}

/// Text of `SQLite` where a deal does not exist.
const NO_ROW: &str = "scanning deal row: sql: no rows in result set";

/// Epoch until which the ask stands: a thousand years.
pub(crate) const ASK_EXPIRY: u64 = 1_051_200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Retry,
    Fail,
    Cancel,
}

fn funds(world: &World, selected: &[Field]) -> Value {
    let balances = world.funds.balances();
    let miner = world.miner.print(world.config.network_prefix);
    object("Funds", selected, |field| match field.name.as_str() {
        "Escrow" => {
            let whole = json!({
                "Available": big(balances.escrow), "Locked": big(0), "Tagged": big(balances.escrow_tagged),
            });
            pick("FundsEscrow", &field.fields, &whole)
        }
        "Collateral" => {
            let whole =
                json!({ "Address": miner, "Balance": big(balances.publish_wallet), "Tagged": big(0) });
            pick("FundsWallet", &field.fields, &whole)
        }
        _ => {
            let whole = json!({
                "Address": miner, "Balance": big(balances.publish_wallet),
                "Tagged": big(balances.publish_tagged),
            });
            pick("FundsWallet", &field.fields, &whole)
        }
    })
}

fn deal_publish(world: &World, selected: &[Field]) -> Value {
    let batch = world.config.batch;
    object("DealPublish", selected, |field| match field.name.as_str() {
        "ManualPSD" => json!(false),
        "Period" => json!(batch.period.as_secs()),
        "Start" => json!(go_time(std::time::SystemTime::now())),
        "MaxDealsPerMsg" => json!(batch.deals_max),
        _ => world
            .batch
            .deals()
            .filter_map(|index| world.store.get(index))
            .map(|deal| {
                object("DealBasic", &field.fields, |field| match field.name.as_str() {
                    "IsLegacy" | "IsDirect" => json!(false),
                    _ => deal_field(world, deal, field),
                })
            })
            .collect(),
    })
}
