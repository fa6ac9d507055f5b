//! The shape of a type: what it requests from a deserializer, by kind, name and order.
//!
//! A [`Tracer`] is an input without bytes. It supplies a sample for every request and notes the request, so the result
//! is a function of the type and not of a value. One pass cannot see all of a type: it takes one variant of each enum,
//! and some types refuse a sample. So there are passes until one shows nothing new.
//!
//! - A list, map or option gets elements as long as they show something new. Inside itself it is empty, which ends the
//!   descent into recursive types.
//! - An enum gets a variant that was not seen, or else one that may show something new, or else one that is known to
//!   end.
//! - A refused sample is replaced by the next one for its kind. If none is left, the list, option or variant around it
//!   is not entered again, and the shape has no more of it.
//!
//! Newtypes and boxes have no shape of their own, and names of types are not part of a shape: an old type may get
//! another name.

use std::any::TypeId;
use std::cell::RefCell;
use std::fmt::{self, Write};
use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::{Decoder, Error, Kept, Result};

/// The most requests of all passes over a type. The shape of a larger type ends there.
const STEPS_MAX: usize = 20_000;

/// The greatest depth of lists, options and variants inside each other in a sample.
const DEPTH_MAX: usize = 64;

/// The longest text of a shape, in bytes. The text of a larger one ends there.
const TEXT_MAX_BYTES: usize = 64 * 1024;

/// The samples of numbers.
const NUMBERS: &[u64] = &[1, 0, 12, 100, 2000];

/// The samples of texts: for dates, times, addresses, numbers and ids in texts too.
const TEXTS: &[&str] = &[
    "text",
    "1",
    "2000-01-01",
    "2000-01-01T00:00:00Z",
    "00:00:00",
    "127.0.0.1",
    "http://a.aa/",
    "a@a.aa",
    "1.0.0",
    "00000000-0000-0000-0000-000000000000",
    "",
];

/// The lengths of the samples of bytes.
const LENGTHS: &[usize] = &[16, 1, 2, 4, 8, 12, 20, 24, 32, 48, 64, 0];

static ZEROS: [u8; 64] = [0; 64];

/// What a type requests at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing was requested yet.
    #[default]
    Unknown,
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    Char,
    Text,
    Bytes,
    Unit,
    Option,
    List,
    Map,
    Tuple,
    Struct,
    Enum,
    /// A struct or an enum, whose shape is at another node.
    Link,
    /// Whatever value follows.
    Untyped,
}

impl Kind {
    /// Returns the word for a kind without contents.
    fn word(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Char => "char",
            Self::Text => "text",
            // A list of `u8`, which has the same encoding.
            Self::Bytes => "[u8]",
            Self::Unit => "()",
            Self::Untyped => "any",
            _ => "_",
        }
    }

    /// Returns the number of samples.
    fn samples(self) -> usize {
        match self {
            Self::Text => TEXTS.len(),
            Self::Bytes => LENGTHS.len(),
            Self::Bool => 2,
            Self::Unit | Self::Char | Self::F32 | Self::F64 => 1,
            _ => NUMBERS.len(),
        }
    }
}

/// The shape of a type.
#[derive(Debug)]
pub(in crate::snapshot) struct Shape {
    /// A hash of the shape's text, which is the same in every build whose type has this shape.
    pub(in crate::snapshot) fingerprint: u64,
    /// The place of a value without a type of its own, such as `profile.extra`; empty for the type itself.
    pub(in crate::snapshot) untyped: Option<String>,
}

/// Returns the shape of `T`. A type is traced once in each instance.
pub(in crate::snapshot) fn of<T: DeserializeOwned>() -> Rc<Shape> {
    thread_local! {
        static KNOWN: RefCell<Vec<(TypeId, Rc<Shape>)>> = const { RefCell::new(Vec::new()) };
    }
    let id = typeid::of::<T>();
    let known = KNOWN.with_borrow(|known| known.iter().find(|(of, _)| *of == id).map(|(_, shape)| Rc::clone(shape)));
    known.unwrap_or_else(|| {
        let shape = Rc::new(traced::<T>().shape());
        KNOWN.with_borrow_mut(|known| known.push((id, Rc::clone(&shape))));
        shape
    })
}

/// Returns the text of the shape of `T`.
pub(in crate::snapshot) fn text<T: DeserializeOwned>() -> String {
    let mut text = String::new();
    traced::<T>().write(&mut text);
    text
}

fn traced<T: DeserializeOwned>() -> Tracer {
    let mut tracer = Tracer { nodes: vec![Node::default()], ..Tracer::default() };
    tracer.run(&mut |tracer| T::deserialize(&mut Decoder::of_nothing(tracer, &Kept::default())).map(drop));
    tracer
}

/// What is known about a type so far.
#[derive(Default)]
pub(super) struct Tracer {
    /// The first one is that of the type itself.
    nodes: Vec<Node>,
    /// The nodes of structs and enums, by their visitors.
    containers: Vec<(TypeId, usize)>,
    /// The node of the next request.
    cursor: usize,
    /// The node of the last sample.
    leaf: usize,
    /// The lists, options and variants around the next request.
    open: Vec<Open>,
    /// Grows with everything new.
    progress: usize,
    steps: usize,
}

#[derive(Default)]
struct Node {
    kind: Kind,
    names: &'static [&'static str],
    children: Vec<usize>,
    /// Of an enum: what is known about each variant.
    variants: Vec<Variant>,
    /// A further shape of the same place, for a type that makes its requests depend on earlier values.
    other: Option<usize>,
    /// The index of the sample to supply.
    sample: usize,
    is_open: bool,
    /// Whether another element would show nothing new, or cannot be made.
    is_done: bool,
}

#[derive(Clone, Copy, Default)]
struct Variant {
    is_seen: bool,
    is_done: bool,
    /// Whether a value was made with this variant.
    ends: bool,
    open: usize,
}

struct Open {
    node: usize,
    variant: Option<usize>,
}

impl Tracer {
    fn run(&mut self, pass: &mut dyn FnMut(&mut Self) -> Result<()>) {
        loop {
            let progress = self.progress;
            self.restart();
            match pass(self) {
                Ok(()) => {}
                Err(Error::Untyped) => return,
                Err(_) => self.replace_sample(),
            }
            if self.progress == progress || self.steps > STEPS_MAX {
                return;
            }
        }
    }

    fn restart(&mut self) {
        self.cursor = 0;
        self.open.clear();
        for node in &mut self.nodes {
            node.is_open = false;
            node.variants.iter_mut().for_each(|variant| variant.open = 0);
        }
    }

    /// Takes the next sample in place of the one that was refused last, or gives up what is around it.
    fn replace_sample(&mut self) {
        let leaf = &mut self.nodes[self.leaf];
        if leaf.sample + 1 < leaf.kind.samples() {
            leaf.sample += 1;
            self.progress += 1;
            return;
        }
        for open in self.open.iter().rev() {
            let node = &mut self.nodes[open.node];
            let is_done = match open.variant {
                Some(index) => &mut node.variants[index].is_done,
                None => &mut node.is_done,
            };
            if !std::mem::replace(is_done, true) {
                self.progress += 1;
                return;
            }
        }
    }

    /// Notes a request at the cursor. Returns its node.
    fn note(&mut self, kind: Kind, target: Option<usize>) -> Result<usize> {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.open.len() > DEPTH_MAX {
            return Err(Error::End);
        }
        let mut at = self.cursor;
        loop {
            let node = &mut self.nodes[at];
            if node.kind == Kind::Unknown {
                node.kind = kind;
                node.children.extend(target);
                self.progress += 1;
                return Ok(at);
            }
            if node.kind == kind && target.is_none_or(|target| node.children.first() == Some(&target)) {
                return Ok(at);
            }
            at = match node.other {
                Some(other) => other,
                None => {
                    let other = self.nodes.len();
                    self.nodes[at].other = Some(other);
                    self.nodes.push(Node::default());
                    other
                }
            };
        }
    }

    fn leaf(&mut self, kind: Kind) -> Result<usize> {
        self.leaf = self.note(kind, None)?;
        Ok(self.nodes[self.leaf].sample)
    }

    pub(super) fn number(&mut self, kind: Kind) -> Result<u64> {
        let sample = self.leaf(kind)?;
        let number = NUMBERS[sample];
        // 2000 is no value of these.
        Ok(if matches!(kind, Kind::U8 | Kind::I8) && number > 100 { 7 } else { number })
    }

    pub(super) fn string(&mut self, kind: Kind) -> Result<&'static [u8]> {
        let sample = self.leaf(kind)?;
        Ok(if kind == Kind::Text { TEXTS[sample].as_bytes() } else { &ZEROS[..LENGTHS[sample]] })
    }

    /// Notes a value with contents. Returns the node for [`Tracer::enter`]; with an `id`, it is the same wherever that
    /// type is used.
    pub(super) fn begin(&mut self, kind: Kind, id: Option<TypeId>, names: &'static [&'static str]) -> Result<usize> {
        let node = match id {
            None => self.note(kind, None)?,
            Some(id) => {
                let known = self.containers.iter().find(|(of, _)| *of == id).map(|(_, node)| *node);
                let node = known.unwrap_or_else(|| {
                    self.nodes.push(Node { kind, ..Node::default() });
                    self.containers.push((id, self.nodes.len() - 1));
                    self.nodes.len() - 1
                });
                self.note(Kind::Link, Some(node))?;
                node
            }
        };
        self.nodes[node].names = names;
        Ok(node)
    }

    /// Moves the cursor to a value inside a node.
    pub(super) fn enter(&mut self, node: usize, index: usize) {
        while self.nodes[node].children.len() <= index {
            let child = self.nodes.len();
            self.nodes.push(Node::default());
            self.nodes[node].children.push(child);
        }
        self.cursor = self.nodes[node].children[index];
    }

    /// Returns whether a list or an option gets a further element. `mark` is `None` at first.
    pub(super) fn repeat(&mut self, node: usize, mark: &mut Option<usize>) -> bool {
        if mark.is_some() {
            if *mark == Some(self.progress) {
                self.end(node, *mark);
                return false;
            }
        } else {
            let list = &mut self.nodes[node];
            if list.is_open || list.is_done {
                return false;
            }
            list.is_open = true;
            self.open.push(Open { node, variant: None });
        }
        *mark = Some(self.progress);
        true
    }

    /// Ends a list or an option. It is done if nothing new was seen since `mark`.
    pub(super) fn end(&mut self, node: usize, mark: Option<usize>) {
        self.open.pop();
        let list = &mut self.nodes[node];
        list.is_open = false;
        list.is_done |= mark == Some(self.progress);
    }

    /// Chooses a variant and moves the cursor to its contents. Returns it, and the mark for [`Tracer::end_variant`].
    pub(super) fn variant(&mut self, node: usize) -> Result<(usize, usize)> {
        let names = self.nodes[node].names;
        let variants = &mut self.nodes[node].variants;
        variants.resize(names.len(), Variant::default());
        let first = |fits: fn(&Variant) -> bool| variants.iter().position(fits);
        let index = first(|variant| !variant.is_seen)
            .or_else(|| first(|variant| !variant.is_done && variant.open == 0))
            .or_else(|| first(|variant| variant.ends))
            .or_else(|| (0..variants.len()).min_by_key(|index| variants[*index].open))
            .ok_or(Error::End)?;
        let variant = &mut variants[index];
        self.progress += usize::from(!variant.is_seen);
        variant.is_seen = true;
        variant.open += 1;
        self.open.push(Open { node, variant: Some(index) });
        self.enter(node, index);
        Ok((index, self.progress))
    }

    pub(super) fn end_variant(&mut self, node: usize, index: usize, mark: usize) {
        self.open.pop();
        let variant = &mut self.nodes[node].variants[index];
        variant.open -= 1;
        variant.ends = true;
        if mark == self.progress && !variant.is_done {
            variant.is_done = true;
            self.progress += 1;
        }
    }

    fn shape(&self) -> Shape {
        let mut hasher = Hasher(0xcbf2_9ce4_8422_2325);
        self.write(&mut hasher);
        let untyped = self.nodes.iter().any(|node| node.kind == Kind::Untyped).then(|| self.path_to_untyped());
        Shape { fingerprint: hasher.0, untyped }
    }

    fn write(&self, to: &mut dyn Write) {
        let mut text = Text { nodes: &self.nodes, to, left: TEXT_MAX_BYTES, stack: Vec::new() };
        // A text that is too long ends there.
        let _ = text.node(0);
    }

    /// Returns the names of the fields and variants on the way to the value without a type.
    fn path_to_untyped(&self) -> String {
        let mut path = Vec::new();
        self.find_untyped(0, &mut vec![false; self.nodes.len()], &mut path);
        path.reverse();
        path.join(".")
    }

    fn find_untyped(&self, at: usize, visited: &mut [bool], path: &mut Vec<&'static str>) -> bool {
        let node = &self.nodes[at];
        if node.kind == Kind::Untyped {
            return true;
        }
        if std::mem::replace(&mut visited[at], true) {
            return false;
        }
        for (index, child) in node.children.iter().enumerate() {
            if self.find_untyped(*child, visited, path) {
                path.extend(node.names.get(index));
                return true;
            }
        }
        node.other.is_some_and(|other| self.find_untyped(other, visited, path))
    }
}

/// Writes shapes as text, such as `{total:i64,names:[text]}`.
struct Text<'a> {
    nodes: &'a [Node],
    to: &'a mut dyn Write,
    left: usize,
    /// The structs and enums around the next value. A recursive type contains the distance to itself.
    stack: Vec<usize>,
}

impl Text<'_> {
    fn add(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.to.write_str(text)
    }

    fn node(&mut self, at: usize) -> fmt::Result {
        let node = &self.nodes[at];
        match node.kind {
            Kind::Link => {
                let Some(target) = node.children.first().copied() else { return Ok(()) };
                match self.stack.iter().rev().position(|container| *container == target) {
                    Some(distance) => {
                        self.add("^")?;
                        (0..distance).try_for_each(|_| self.add("^"))?;
                    }
                    None => {
                        self.stack.push(target);
                        self.node(target)?;
                        self.stack.pop();
                    }
                }
            }
            Kind::Option => self.children(node, "", "", "?")?,
            Kind::List => self.children(node, "[", "", "]")?,
            Kind::Map => self.children(node, "[", ":", "]")?,
            Kind::Tuple => self.children(node, "(", ",", ")")?,
            Kind::Struct => self.named(node, "{", ",", "}")?,
            Kind::Enum => self.named(node, "<", "|", ">")?,
            kind => self.add(kind.word())?,
        }
        match node.other {
            Some(other) => {
                self.add("/")?;
                self.node(other)
            }
            None => Ok(()),
        }
    }

    fn children(&mut self, node: &Node, before: &str, between: &str, after: &str) -> fmt::Result {
        self.add(before)?;
        for (index, child) in node.children.iter().enumerate() {
            self.add(if index == 0 { "" } else { between })?;
            self.node(*child)?;
        }
        self.add(after)
    }

    fn named(&mut self, node: &Node, before: &str, between: &str, after: &str) -> fmt::Result {
        self.add(before)?;
        for (index, name) in node.names.iter().enumerate() {
            self.add(if index == 0 { "" } else { between })?;
            self.add(name)?;
            if let Some(child) = node.children.get(index).filter(|child| self.nodes[**child].kind != Kind::Unit) {
                self.add(":")?;
                self.node(*child)?;
            }
        }
        self.add(after)
    }
}

/// FNV-1a with 64 bits: short, and the same everywhere and for ever.
struct Hasher(u64);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
