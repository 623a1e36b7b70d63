package top

import (
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Model is what the view knows and shows: a state machine to which time, size, keys and the daemon's answers come as
// messages. What it wants done it returns as a command. Make it with New. Not safe for concurrent use.
type Model struct {
	ask      *asker // nil: nobody is asked
	interval time.Duration
	theme    theme

	width, height int
	clock         time.Time // when the daemon was asked last
	now           time.Time // when it has answered last: of what is shown
	status        control.Status
	history       history
	events        []tunlb.Event // oldest first
	gone          error         // why the daemon does not answer; nil iff it does
	goneSince     time.Time

	paused  bool
	screen  screen
	focus   pane
	lower   pane // the one that is shown below the services where there is room for one only
	sorting sorting
	filter  string
	folded  map[string]bool // services whose servers are not shown
	rows    []row           // of the services' pane
	widest  struct{ name, address int }
	at      key        // the row that is selected
	cursor  int        // its index
	scroll  [panes]int // of the panes below
	prompt  *prompt
	note    note
	conns   connsView
	visits  int // to connections
	trace   traceView
	helpTop int
}

// screen is what fills the terminal.
type screen uint8

const (
	mainScreen screen = iota
	connsScreen
	traceScreen
	helpScreen
)

// pane is a part of the main screen.
type pane uint8

const (
	servicesPane pane = iota
	dropsPane
	neighboursPane
	eventsPane
	panes
)

// note is the last thing that the view has to say, in the line at the bottom.
type note struct {
	text string
	bad  bool
}

// eventsKept is how many events can be scrolled through.
const eventsKept = 1000

// New makes a model that is told of the daemon's state every interval.
func New(interval time.Duration) *Model {
	return &Model{interval: interval, theme: newTheme(), width: 80, height: 24, lower: dropsPane, folded: map[string]bool{}}
}

// Init is tea.Model's.
func (m *Model) Init() tea.Cmd { return m.poll(false) }

// Update is tea.Model's. It returns the same model, changed.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m, m.press(msg)
	case tea.PasteMsg:
		if m.prompt != nil {
			m.prompt.insert(msg.Content)
			m.typed()
		}
	case tickMsg:
		if m.paused {
			return m, m.after(m.interval, tickMsg{})
		}
		return m, m.poll(false)
	case pollMsg:
		m.took(&msg)
		if !msg.extra {
			return m, m.after(m.interval, tickMsg{})
		}
	case connsTickMsg:
		if msg.visit != m.conns.visit {
			break // it was left
		}
		if m.paused || m.screen != connsScreen {
			return m, m.after(m.interval, msg)
		}
		return m, m.list()
	case connsMsg:
		if msg.visit != m.conns.visit {
			break
		}
		if !m.paused || m.conns.at.IsZero() {
			m.conns.take(&msg)
		}
		// To look through a million connections takes its time: nobody else is to wait for it most of the time.
		return m, m.after(max(m.interval, 4*msg.took), connsTickMsg{msg.visit})
	case orderMsg:
		m.note = outcome(&msg)
		return m, m.poll(true)
	case traceMsg:
		return m, m.trace.take(&msg, m.paused)
	}
	return m, nil
}

// took takes a status into account.
func (m *Model) took(msg *pollMsg) {
	if msg.at.Before(m.clock) || m.paused {
		return // one out of turn has overtaken it
	}
	m.clock = msg.at
	if msg.err != nil {
		if m.gone == nil {
			m.goneSince = msg.at
		}
		m.gone = msg.err
		return
	}
	if !msg.status.Daemon.Started.Equal(m.status.Daemon.Started) {
		if !m.status.Daemon.Started.IsZero() {
			m.note = note{text: "tunlb was started anew: its counters begin at zero"}
		}
		m.history, m.events = history{}, nil
	} else if m.gone != nil {
		m.note = note{text: "tunlb answers again"}
	}
	m.gone, m.status, m.now = nil, msg.status, msg.at
	if !msg.extra { // too short after the last one for a rate that says anything
		m.history.add(msg.at, &m.status)
	}
	for _, ev := range msg.events {
		if n := len(m.events); n == 0 || ev.Seq > m.events[n-1].Seq {
			m.events = append(m.events, ev)
		}
	}
	if extra := len(m.events) - eventsKept; extra > 0 {
		m.events = slices.Delete(m.events, 0, extra)
	}
	m.arrange()
}

// poll, list and after ask for something, if there is somebody to ask.
func (m *Model) poll(extra bool) tea.Cmd {
	if m.ask == nil {
		return nil
	}
	since := uint64(0)
	if n := len(m.events); n > 0 {
		since = m.events[n-1].Seq
	}
	return m.ask.poll(m.status.Daemon.Started, since, extra)
}

func (m *Model) list() tea.Cmd {
	if m.ask == nil {
		return nil
	}
	return m.ask.conns(m.conns.of, m.conns.visit)
}

func (m *Model) after(d time.Duration, msg tea.Msg) tea.Cmd {
	if m.ask == nil {
		return nil
	}
	return m.ask.after(d, msg)
}
