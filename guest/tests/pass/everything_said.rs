use lifeboat_guest::{Context, MessagePack, Raw, StateReader, workload};

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Tape<T>(Vec<T>);

#[workload]
impl lifeboat_guest::Workload for Tape<u8> {
    type Transaction = Vec<u8>;
    type Reply = String;
    type Query = String;
    type Answer = Vec<u8>;
    type Error = std::num::TryFromIntError;
    type Codec = Raw;
    type StateCodec = MessagePack;
    const STATE_VERSION: u32 = 2;

    fn execute(&mut self, _: &Context, bytes: Vec<u8>) -> Result<String, Self::Error> {
        let length = u8::try_from(bytes.len())?;
        self.0.extend(bytes);
        Ok(length.to_string())
    }

    fn query(&self, _: &Context, _: String) -> Result<Vec<u8>, Self::Error> {
        Ok(self.0.clone())
    }

    fn migrate(_: u32, state: StateReader) -> Result<Self, String> {
        state.read()
    }
}

fn main() {
    let mut tape = Tape::default();
    let reply = lifeboat_guest::dispatch::execute(&mut tape, &Context::default(), b"abc");
    assert_eq!(reply, Ok(b"3".to_vec()));
    let moved = lifeboat_guest::testing::moved(&tape);
    assert_eq!(moved.0, b"abc");
}
