//! Repeated ids and bodies: which are answered again, which are denied, and which answers are retained.

use super::calls::Book;
use super::misses::MissKey;
use super::{Service, Work, doubts};
use crate::answers::{Caller, IdKey, KeptId};
use crate::journal::TransactionRecord;
use crate::network::Retry;
use lifeboat_api::id::id_time;
use lifeboat_api::transaction::{Denial, Reply, ReplyHash, Request, RequestError, check_id};
use tokio::sync::oneshot;

impl Service {
    /// Answers a repetition of the id with this key. Returns `None` if the request must be executed.
    pub(super) async fn repetition(
        &mut self,
        key: Option<&IdKey>,
        caller: &Caller,
        request: &Request,
    ) -> Option<Result<Reply, Denial>> {
        let (key, id) = key.zip(request.id.as_ref())?;
        let record = match self.history.answered(key).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.may_not_execute(caller, id).map(Err),
            Err(error) => return Some(Err(self.degraded_denial(error.to_string()))),
        };
        if record.may_run_again() {
            let Some(network) = record.network.as_ref().filter(|network| !network.calls.is_empty()) else {
                return check_id(id).err().map(Err);
            };
            // Its calls belong to its body.
            if record.body_hash == ReplyHash::of_body(&request.body) {
                if let Some(denial) = self.asks(&record) {
                    return Some(Err(denial));
                }
                self.book = Book::of_earlier(network, self.network.retry);
                return check_id(id).err().map(Err);
            }
        }
        if record.body_hash != ReplyHash::of_body(&request.body) {
            return Some(Err(Denial::IdReused { id: id.clone(), sequence: record.sequence }));
        }
        Some(Ok(self.repeated(&record)))
    }

    /// Denies a transaction whose calls an operator must settle first.
    fn asks(&self, record: &TransactionRecord) -> Option<Denial> {
        if self.network.retry != Retry::Ask {
            return None;
        }
        let doubt = doubts::calls_of(record).into_iter().next()?;
        let (call, service) = (Box::new(doubt.named()), self.name.clone());
        Some(Denial::InDoubt { service, call, reason: doubt.reason })
    }

    /// Denies an id without a retained answer if nothing may be executed under it: it is invalid, or too old to decide.
    fn may_not_execute(&mut self, caller: &Caller, id: &str) -> Option<Denial> {
        check_id(id).err().or_else(|| self.too_old(caller, id))
    }

    /// Denies an id that may have been answered and forgotten, judged by the time in the id.
    fn too_old(&mut self, caller: &Caller, id: &str) -> Option<Denial> {
        let time = id_time(id).filter(|time| Some(*time) <= self.history.answers().ever_forgotten(caller))?;
        self.look_at_clock();
        let now = self.moment();
        // The clock may have been set forward as well.
        self.history.look_at_clock(now.wall, now);
        let forgotten = self.history.answers().forgotten(caller, now.wall)?;
        (time <= forgotten).then(|| Denial::TooOld { id: id.to_owned(), time, forgotten })
    }

    /// Returns the answer to a transaction that is not executed again.
    fn repeated(&self, record: &TransactionRecord) -> Reply {
        Reply {
            id: record.id.to_string(),
            sequence: record.sequence,
            timestamp: record.timestamp,
            answer: record.answer.clone(),
            fuel_used: record.fuel_used,
            is_repeated: true,
            vm: self.vm.id.clone(),
            failover: None,
        }
    }

    /// Sends the retained answer to `caller`'s transaction `id`, once it is durable.
    pub(super) async fn find(
        &mut self,
        caller: &Caller,
        id: String,
        found: oneshot::Sender<Result<Option<Reply>, RequestError>>,
    ) {
        match self.history.answered(&IdKey::new(&caller.user, caller.incarnation, &id)).await {
            Err(error) => drop(found.send(Err(self.degraded_denial(error.to_string()).into()))),
            Ok(None) => {
                drop(found.send(self.may_not_execute(caller, &id).map_or(Ok(None), |denial| Err(denial.into()))))
            }
            Ok(Some(record)) => {
                let answered = self.repeated(&record);
                self.send_when_safe(&self.last_commit.clone(), answered, true, |answer| {
                    drop(found.send(answer.map(Some).map_err(RequestError::from)));
                });
            }
        }
    }

    /// Denies an id that missed its deadline repeatedly, and a body that did so under any id.
    pub(super) fn refused_for_misses(
        &mut self,
        key: Option<IdKey>,
        caller: &Caller,
        request: &Request,
    ) -> Option<Denial> {
        if self.misses.is_empty() {
            return None;
        }
        let now = self.created.elapsed();
        self.misses.forget_old(now);
        if let Some((misses, retry_after)) = key.and_then(|key| self.misses.refused(&MissKey::Id(key), now)) {
            return Some(Denial::MissedDeadlines { id: request.id.clone(), misses, retry_after });
        }
        let body = MissKey::of_body(caller, request.kind, &request.body);
        let (misses, retry_after) = self.misses.refused(&body, now)?;
        Some(Denial::MissedDeadlines { id: None, misses, retry_after })
    }

    /// Records whether the id and the body of `work` missed their deadline. A body is hashed only while some miss is
    /// known.
    pub(super) fn note_deadline(&mut self, work: &Work, is_missed: bool) {
        if !is_missed && self.misses.is_empty() {
            return;
        }
        let caller = Caller { user: work.user.clone(), incarnation: work.incarnation };
        let body = MissKey::of_body(&caller, work.kind, &work.body);
        for key in work.key.map(MissKey::Id).into_iter().chain([body]) {
            match is_missed {
                true => self.misses.miss(key, self.created.elapsed()),
                false => self.misses.answer(&key),
            }
        }
    }

    /// Denies a transaction whose id could not be retained, before it runs.
    pub(super) fn make_room_for_id(&mut self, caller: &Caller) -> Result<(), Denial> {
        if self.history.answers().has_room() {
            return Ok(());
        }
        self.look_at_clock();
        let now = self.moment();
        let room = self.history.make_room(caller, now);
        self.forget_doubts();
        room.map_err(|retry_after| Denial::TooManyIds {
            service: self.name.clone(),
            user: caller.user.clone(),
            retry_after,
        })
    }

    /// Retains the answer in the last record under its id, if the client chose one. Forgets answers beyond the
    /// deduplication window.
    pub(super) fn retain_answer(&mut self, work: &Work, answer_bytes: u64) {
        let now = self.moment();
        if let Some(key) = work.key {
            let kept = KeptId {
                key,
                caller: Caller { user: work.user.clone(), incarnation: work.incarnation },
                sequence: work.sequence,
                number: self.history.last_record(),
                timestamp: now.steady,
                id_time: id_time(&work.id),
                bytes: answer_bytes,
            };
            self.history.index(kept, now.wall);
        }
        if self.history.trim(now) {
            self.forget_doubts();
        }
    }

    /// Relocates answers that would pin parts of the journal that nothing else needs.
    pub(super) async fn relocate_answers(&mut self) {
        if let Err(error) = self.history.relocate_answers().await {
            drop(self.stop(format!("an answer could not be relocated: {error}")));
        }
    }
}
