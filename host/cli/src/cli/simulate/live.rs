//! The live view of a simulation: one meter line for every service, and the progress of the whole run below them.

use super::super::help;
use clap::builder::styling::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::event::Event;
use lifeboat_api::meter::{NetworkAmount, Percent, Resource, Usage};
use lifeboat_api::name::Name;
use lifeboat_host::service::Status;
use lifeboat_simulate::{Observer, ServiceView};
use std::time::{Duration, Instant};
use terminal_size::{Width, terminal_size_of};

/// The interval between two drawings of the meters. A shorter one would only cost time.
const DRAW_INTERVAL: Duration = Duration::from_millis(50);

/// The fewest cells of a meter. Between the two bounds, a meter is as long as the terminal allows. Without cells it is a
/// whole percentage.
const METER_CELLS_MIN: usize = 0;
/// The most cells of a meter.
const METER_CELLS_MAX: usize = 20;

/// The columns of a terminal that does not report its width.
const COLUMNS: usize = 80;

/// The indent of an event's second and later lines.
const INDENT: &str = "    ";

/// A meter is marked from this many points below its threshold on.
const NEAR_POINTS: u16 = 10;

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

pub(super) struct Live {
    bars: MultiProgress,
    meters: Vec<ProgressBar>,
    /// The progress of the whole run, below the meters.
    whole: ProgressBar,
    /// The time of the last drawing. None makes the next one immediate: a failover is shown at once.
    drawn: Option<Instant>,
    /// The services whose line does not show their latest state.
    stale: Vec<bool>,
    has_colours: bool,
    widths: Widths,
}

/// The widest cells so far in the columns of the meters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Widths {
    vm: usize,
    machine: usize,
    size: usize,
    condition: usize,
    /// Whether any service has called the network. Only then, the lines have a meter for it.
    has_network: bool,
}

impl Widths {
    /// Returns the resources that the lines show.
    fn resources(self) -> impl Iterator<Item = Resource> {
        Resource::ALL.into_iter().filter(move |resource| self.has_network || *resource != Resource::Network)
    }

    fn add(&mut self, ServiceView { status, .. }: &ServiceView) {
        // Four more for the slash and three digits of the VM's number.
        self.vm = self.vm.max(status.vm.service.len() + 4);
        self.machine = self.machine.max(status.machine.len());
        self.size = self.size.max(status.size.chars().count());
        self.condition = self.condition.max(condition(status).len());
        self.has_network |= status.meter.network.used() != NetworkAmount::default();
    }

    /// Returns the length of each meter of a line, in cells.
    fn cells(self, columns: usize) -> usize {
        let names: usize = self.resources().map(|resource| "  ".len() + short(resource).len() + " ".len()).sum();
        let meters = self.resources().count();
        // The percentage and the mark of each meter, and the longest condition so far.
        let beside = meters * " 100.0%!".len() + self.condition;
        let before = self.vm + self.machine + self.size + 2 * "  ".len();
        (columns.saturating_sub(before + names + beside) / meters).clamp(METER_CELLS_MIN, METER_CELLS_MAX)
    }
}

/// Returns the condition of a service that its line ends with.
fn condition(status: &Status) -> &'static str {
    match (&status.stopped, &status.degraded, &status.unmovable) {
        (Some(_), _, _) => "  stopped",
        (_, Some(_), _) => "  degraded",
        (_, _, Some(_)) => "  unmovable",
        _ => "",
    }
}

/// Returns the name of a resource before its meter.
fn short(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cpu",
        Resource::Memory => "mem",
        Resource::Disk => "disk",
        Resource::Network => "net",
    }
}

fn columns() -> usize {
    terminal_size_of(std::io::stderr()).map_or(COLUMNS, |(Width(columns), _)| columns.into())
}

impl Live {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let whole = bars.add(ProgressBar::new_spinner().with_style(text_style()));
        Self {
            bars,
            meters: Vec::new(),
            whole,
            drawn: None,
            stale: Vec::new(),
            // See https://no-color.org.
            has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            widths: Widths::default(),
        }
    }

    /// Removes the meters from the screen. The event lines stay.
    pub(super) fn close(&mut self) {
        let _ = self.bars.clear();
    }

    fn draw(&mut self, services: &[ServiceView]) {
        let before = self.widths;
        services.iter().for_each(|view| self.widths.add(view));
        if self.widths != before {
            self.stale.fill(true);
        }
        let cells = self.widths.cells(columns());
        for (service, view) in services.iter().enumerate() {
            if std::mem::take(&mut self.stale[service]) {
                self.meters[service].set_message(self.line(view, cells));
            }
        }
        self.drawn = Some(Instant::now());
    }

    fn line(&self, ServiceView { status, thresholds }: &ServiceView, cells: usize) -> String {
        let vm = status.vm.to_string();
        let Widths { vm: vm_width, machine: machine_width, size: size_width, .. } = self.widths;
        let mut line = format!("{vm:<vm_width$}  {:<machine_width$}  {:<size_width$}", status.machine, status.size);
        for resource in self.widths.resources() {
            let meter = self.meter(status.meter.usage(resource), thresholds.of(resource), cells);
            line += &format!("  {} {meter}", short(resource));
        }
        line += condition(status);
        line.trim_end().to_owned()
    }

    /// Formats a meter, `━━━━━━━━╌╌  80.0%`, with a mark near the threshold.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to cells")]
    #[expect(clippy::cast_precision_loss, reason = "at most METER_CELLS_MAX")]
    fn meter(&self, usage: Usage, threshold: Percent, cells: usize) -> String {
        let percent = usage.utilisation_percent();
        let filled = (percent.min(100.0) / 100.0 * cells as f64).round() as usize;
        let empty = cells - filled;
        let is_near = threshold.less_points(NEAR_POINTS).reached(usage.used, usage.limit);
        let (style, mark) = match (threshold.reached(usage.used, usage.limit), is_near) {
            (true, _) => (RED, '!'),
            (_, true) => (YELLOW, '!'),
            _ => (GREEN, ' '),
        };
        let text = match cells {
            0 => format!("{percent:>3.0}%{mark}"),
            _ => format!("{}{} {percent:>5.1}%{mark}", "━".repeat(filled), "╌".repeat(empty)),
        };
        self.styled(style, &text)
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.has_colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

impl Observer for Live {
    fn starting(&mut self, service: &Name) {
        self.whole.set_message(format!("compiling the workload of {service}"));
        self.whole.tick();
    }

    fn started(&mut self, services: &[ServiceView], total: u64) {
        self.stale = vec![true; services.len()];
        let meter = || self.bars.insert_before(&self.whole, ProgressBar::new_spinner().with_style(text_style()));
        self.meters = services.iter().map(|_| meter()).collect();
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} requests");
        self.whole.set_style(style.expect("a literal template").progress_chars("━━╌"));
        self.whole.set_length(total);
        self.draw(services);
    }

    fn event(&mut self, event: &Event) {
        let style = match event {
            Event::Failover(_) => CYAN,
            Event::SlaFailure(_) => YELLOW,
            Event::Degraded { .. } | Event::Unmovable { .. } | Event::Stopped { .. } => RED,
            _ => Style::new(),
        };
        if matches!(event, Event::Failover(_)) {
            self.drawn = None;
        }
        for line in event_lines(&event.to_string(), columns()) {
            let _ = self.bars.println(self.styled(style, &line));
        }
    }

    fn answered(&mut self, services: &[ServiceView], service: usize, done: u64) {
        self.stale[service] = true;
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < DRAW_INTERVAL) {
            return;
        }
        self.draw(services);
        // Repeated requests may exceed the expected total.
        self.whole.set_length(self.whole.length().unwrap_or(0).max(done));
        self.whole.set_position(done);
    }

    fn reconciling(&mut self, service: &Name) {
        self.whole.set_style(text_style());
        self.whole.set_message(format!("reconciling {service}: every transaction again, in one VM"));
        self.whole.tick();
    }
}

/// Breaks an event into lines that fit.
fn event_lines(text: &str, columns: usize) -> Vec<String> {
    let text = help::broken(text, columns.saturating_sub(INDENT.len()));
    let indented = |(index, line): (usize, &str)| if index == 0 { line.to_owned() } else { format!("{INDENT}{line}") };
    text.lines().enumerate().map(indented).collect()
}

fn text_style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").expect("a literal template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_eighty_columns() {
        let text = "Trigger process failover: triggered: bank/1 on m1 -> bank/2 on m2 (state 22.8 kB, replayed 0, pause 0.9 ms)";
        let lines = event_lines(text, 80);
        let expected = [
            "Trigger process failover: triggered: bank/1 on m1 -> bank/2 on m2 (state",
            "    22.8 kB, replayed 0, pause 0.9 ms)",
        ];
        assert_eq!(lines, expected);
        assert_eq!(event_lines("", 80), Vec::<String>::new());
    }

    #[test]
    fn a_meter_fits_eighty_columns() {
        let condition = "  unmovable".len();
        for (condition, cells) in [(0, 5), (condition, 1)] {
            let widths = Widths { vm: "journal/123".len(), machine: 2, size: 4, condition, has_network: false };
            // Three names of 3, 3 and 4 characters, and after each meter 8 for its percentage and mark.
            let line = |cells: usize| 11 + 2 + 4 + 2 * 2 + (3 + 3 + 4 + 3 * 3) + 3 * (8 + cells) + condition;
            assert_eq!(widths.cells(80), cells);
            assert!(line(cells) <= 80 && line(cells + 1) > 80);
        }
        // With the meter of the network, there is no room for cells: each meter has 5 characters after its name.
        let widths = Widths { vm: "journal/123".len(), machine: 2, size: 4, condition, has_network: true };
        assert_eq!(widths.cells(80), 0);
        assert!(11 + 2 + 4 + 2 * 2 + (3 + 3 + 3 + 4 + 4 * 3) + 4 * 5 + condition <= 80);
        let widths = Widths::default();
        assert_eq!((widths.cells(20), widths.cells(1_000)), (METER_CELLS_MIN, METER_CELLS_MAX));
    }
}
