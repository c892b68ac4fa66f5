//! `--profile` and `--coverage`: counts and times of functions and lines, from the probes of a program.
//!
//! Time is wall-clock time, waiting included. It belongs to the statement that runs when it passes; what a script
//! function called by it takes belongs to that function, what a native function takes is also the statement's.

use hsl::{BoxFuture, Observer, PointKind, Program, Reached};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rows of a table.
const ROWS_MAX: usize = 60;
/// Bytes of source text in a row.
const TEXT_MAX: usize = 80;

/// What was counted while a script ran.
#[derive(Debug)]
pub struct Profile {
    program: Arc<Program>,
    /// By point: how often it was passed.
    counts: Vec<u64>,
    /// By point: time of the statement.
    times: Vec<Duration>,
    callees: Vec<Callee>,
    scripts: HashMap<u32, usize>,
    natives: HashMap<Arc<str>, usize>,
    /// Call paths, the first one the empty path.
    nodes: Vec<Node>,
    active: Vec<Active>,
    timed: bool,
    last: Instant,
}

#[derive(Debug)]
struct Callee {
    name: String,
    place: String,
    calls: u64,
    total: Duration,
    own: Duration,
    /// Activations; the outermost one counts for `total`.
    active: u32,
}

#[derive(Debug)]
struct Node {
    parent: usize,
    callee: usize,
    own: Duration,
    children: HashMap<usize, usize>,
}

#[derive(Debug)]
struct Active {
    /// Twice the number of frames, plus one for a native function.
    depth: usize,
    callee: usize,
    node: usize,
    begun: Instant,
    /// The statement it has reached.
    point: Option<u32>,
}

/// The observer; the counts are shared with whoever prints them.
pub struct Recorder(pub Arc<Mutex<Profile>>);

impl Observer for Recorder {
    fn reached(&mut self, at: &Reached<'_>) -> Option<BoxFuture> {
        // Counting cannot leave half of it undone that matters.
        let mut profile = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Functions of other programs have points of their own.
        if Arc::ptr_eq(at.program(), &profile.program) {
            profile.reached(at.index(), at.depth());
        }
        None
    }
}

impl Profile {
    /// Nothing counted yet. Without `timed` only counts are kept.
    pub fn new(program: Arc<Program>, timed: bool) -> Profile {
        let points = program.points().len();
        Profile {
            program,
            counts: vec![0; points],
            times: vec![Duration::ZERO; points],
            callees: Vec::new(),
            scripts: HashMap::new(),
            natives: HashMap::new(),
            nodes: vec![Node { parent: 0, callee: 0, own: Duration::ZERO, children: HashMap::new() }],
            active: Vec::new(),
            timed,
            last: Instant::now(),
        }
    }

    fn reached(&mut self, index: u32, frames: usize) {
        self.counts[index as usize] += 1;
        if !self.timed {
            return;
        }
        let now = Instant::now();
        self.pass(now);
        let program = Arc::clone(&self.program);
        let point = &program.points()[index as usize];
        let depth = 2 * frames;
        match &point.kind {
            PointKind::Enter | PointKind::Resume => {
                self.leave(depth, now);
                let callee = self.script(point.function);
                self.enter(depth, callee, point.kind == PointKind::Enter, now);
                self.reach(index);
            }
            PointKind::Leave | PointKind::Pause => self.leave(depth, now),
            PointKind::Call(name) => {
                self.leave(depth + 1, now);
                let callee = self.native(name);
                self.enter(depth + 1, callee, true, now);
            }
            PointKind::Return => self.leave(depth + 1, now),
            _ => {
                self.leave(depth + 1, now);
                self.reach(index);
            }
        }
        // What the bookkeeping takes belongs to nobody.
        self.last = Instant::now();
    }

    /// Gives the time since the last point to who is active.
    fn pass(&mut self, now: Instant) {
        let passed = now.duration_since(self.last);
        let Some(top) = self.active.last() else { return };
        self.nodes[top.node].own += passed;
        self.callees[top.callee].own += passed;
        let statement = if top.depth % 2 == 1 {
            self.active.len().checked_sub(2).and_then(|below| self.active[below].point)
        } else {
            top.point
        };
        if let Some(point) = statement {
            self.times[point as usize] += passed;
        }
    }

    fn reach(&mut self, index: u32) {
        if let Some(top) = self.active.last_mut() {
            top.point = Some(index);
        }
    }

    fn enter(&mut self, depth: usize, callee: usize, count: bool, now: Instant) {
        let parent = self.active.last().map_or(0, |top| top.node);
        let node = match self.nodes[parent].children.get(&callee) {
            Some(node) => *node,
            None => {
                self.nodes.push(Node { parent, callee, own: Duration::ZERO, children: HashMap::new() });
                let node = self.nodes.len() - 1;
                self.nodes[parent].children.insert(callee, node);
                node
            }
        };
        let known = &mut self.callees[callee];
        known.calls += u64::from(count);
        known.active += 1;
        self.active.push(Active { depth, callee, node, begun: now, point: None });
    }

    /// Ends what is active at `depth` or deeper.
    fn leave(&mut self, depth: usize, now: Instant) {
        while let Some(top) = self.active.pop_if(|top| top.depth >= depth) {
            let callee = &mut self.callees[top.callee];
            callee.active -= 1;
            if callee.active == 0 {
                callee.total += now.duration_since(top.begun);
            }
        }
    }

    fn callee(&mut self, name: String, place: String) -> usize {
        let zero = Duration::ZERO;
        self.callees.push(Callee { name, place, calls: 0, total: zero, own: zero, active: 0 });
        self.callees.len() - 1
    }

    fn script(&mut self, function: u32) -> usize {
        if let Some(known) = self.scripts.get(&function) {
            return *known;
        }
        let place = self.program.function_place(function);
        let name = self.program.function_name(function);
        let callee = self.callee(name, format!("{}:{}", place.file_or_entry(), place.line));
        self.scripts.insert(function, callee);
        callee
    }

    fn native(&mut self, name: &Arc<str>) -> usize {
        if let Some(known) = self.natives.get(name) {
            return *known;
        }
        let callee = self.callee(name.to_string(), "native".to_owned());
        self.natives.insert(Arc::clone(name), callee);
        callee
    }

    /// The script has ended, also if it was by an error.
    pub fn finish(&mut self) {
        let now = Instant::now();
        self.pass(now);
        self.leave(0, now);
    }

    /// Points that stand for lines, with their source file and line.
    fn lines(&self) -> BTreeMap<(&str, u32), Line> {
        let mut lines: BTreeMap<(&str, u32), Line> = BTreeMap::new();
        // A file that is included several times has several points for one place.
        let mut same: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        for (index, point) in self.program.points().iter().enumerate() {
            let Some(file) = self.program.sources().files.get(point.span.file as usize) else { continue };
            let counted = match point.kind {
                PointKind::Statement => true,
                // The main part of a file begins with no line of its own.
                PointKind::Enter => point.span.offset != 0,
                _ => continue,
            };
            let (line, _) = file.line_column(point.span.offset as usize);
            let time = self.times[index];
            if counted {
                let count = same.entry((&file.path, point.span.offset)).or_default();
                *count += self.counts[index];
                let entry = lines.entry((&file.path, line)).or_default();
                entry.count = entry.count.max(*count);
                entry.time += time;
            } else if !time.is_zero() {
                lines.entry((&file.path, line)).or_default().time += time;
            }
        }
        lines
    }

    /// The tables of functions and lines, most expensive first.
    pub fn tables(&self) -> String {
        let mut out = String::from("     calls     total ms      self ms  function\n");
        let mut callees: Vec<&Callee> = self.callees.iter().collect();
        callees.sort_by_key(|c| std::cmp::Reverse(c.own));
        // Writing to a string does not fail.
        for c in callees.iter().take(ROWS_MAX) {
            let (total, own) = (milliseconds(c.total), milliseconds(c.own));
            let _ = writeln!(out, "{:>10} {total:>12} {own:>12}  {} ({})", c.calls, c.name, c.place);
        }
        omitted(&mut out, callees.len());
        out.push_str("\n     count      self ms  line\n");
        let lines = self.lines();
        let mut rows: Vec<_> = lines.iter().filter(|(_, line)| line.count > 0).collect();
        rows.sort_by_key(|(_, line)| std::cmp::Reverse(line.time));
        for ((path, number), line) in rows.iter().take(ROWS_MAX) {
            let text = self.source_line(path, *number);
            let _ =
                writeln!(out, "{:>10} {:>12}  {path}:{number}  {text}", line.count, milliseconds(line.time));
        }
        omitted(&mut out, rows.len());
        out
    }

    fn source_line(&self, path: &str, number: u32) -> String {
        let file = self.program.sources().files.iter().find(|f| *f.path == *path);
        let text = file.map_or(String::new(), |f| String::from_utf8_lossy(f.line(number)).into_owned());
        text.trim().chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
    }

    /// One call path per line with its own time in microseconds, as flame graph programs read it.
    pub fn folded(&self) -> String {
        let mut lines = Vec::new();
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            let mut names = Vec::new();
            let mut up = at;
            while up != 0 {
                names.push(self.callees[self.nodes[up].callee].name.replace([';', '\n'], ":"));
                up = self.nodes[up].parent;
            }
            names.reverse();
            lines.push(format!("{} {}\n", names.join(";"), node.own.as_micros()));
        }
        lines.sort();
        lines.concat()
    }

    /// Coverage in the format of lcov.
    pub fn lcov(&self) -> String {
        let mut functions: BTreeMap<&str, BTreeMap<(u32, String), u64>> = BTreeMap::new();
        for (index, point) in self.program.points().iter().enumerate() {
            if point.kind != PointKind::Enter || point.span.offset == 0 {
                continue;
            }
            let Some(file) = self.program.sources().files.get(point.span.file as usize) else { continue };
            let name = self.program.function_name(point.function);
            let (line, _) = file.line_column(point.span.offset as usize);
            *functions.entry(&file.path).or_default().entry((line, name)).or_default() += self.counts[index];
        }
        let mut files: BTreeMap<&str, Vec<(u32, u64)>> = BTreeMap::new();
        for ((path, line), entry) in self.lines() {
            files.entry(path).or_default().push((line, entry.count));
        }
        let mut out = String::new();
        for (path, lines) in files {
            // Writing to a string does not fail.
            let _ = writeln!(out, "TN:\nSF:{path}");
            let list = functions.remove(path).unwrap_or_default();
            for (line, name) in list.keys() {
                let _ = writeln!(out, "FN:{line},{}", name.replace(',', "_"));
            }
            for ((_, name), count) in &list {
                let _ = writeln!(out, "FNDA:{count},{}", name.replace(',', "_"));
            }
            let hit = list.values().filter(|count| **count > 0).count();
            let _ = writeln!(out, "FNF:{}\nFNH:{hit}", list.len());
            for (line, count) in &lines {
                let _ = writeln!(out, "DA:{line},{count}");
            }
            let hit = lines.iter().filter(|(_, count)| *count > 0).count();
            let _ = writeln!(out, "LF:{}\nLH:{hit}\nend_of_record", lines.len());
        }
        out
    }
}

#[derive(Default)]
struct Line {
    count: u64,
    time: Duration,
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

fn omitted(out: &mut String, rows: usize) {
    if rows > ROWS_MAX {
        let _ = writeln!(out, "       ... {} more", rows - ROWS_MAX);
    }
}
