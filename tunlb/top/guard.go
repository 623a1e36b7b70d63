package top

import (
	"fmt"
	"runtime/debug"

	tea "charm.land/bubbletea/v2"
)

// guard has what panics in a command panic in Update, with its stack: from there bubbletea puts the terminal back and
// prints it before the process can end. Commands run in goroutines of their own, for which it does not wait.
type guard struct{ tea.Model }

// fault is what a command has panicked with.
type fault struct{ text string }

func (g guard) Init() tea.Cmd { return guarded(g.Model.Init()) }

func (g guard) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if f, ok := msg.(fault); ok {
		panic(f.text)
	}
	_, cmd := g.Model.Update(msg) // which returns itself
	return g, guarded(cmd)
}

func guarded(cmd tea.Cmd) tea.Cmd {
	if cmd == nil {
		return nil
	}
	return func() (msg tea.Msg) {
		defer func() {
			if r := recover(); r != nil {
				msg = fault{fmt.Sprintf("%v\n\n%s", r, debug.Stack())}
			}
		}()
		msg = cmd()
		if batch, ok := msg.(tea.BatchMsg); ok {
			for i := range batch {
				batch[i] = guarded(batch[i])
			}
		}
		return msg
	}
}
