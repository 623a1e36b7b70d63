package top

import (
	"context"
	"errors"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
)

// beFragile is the process of TestFault.
func beFragile() int {
	if err := show(context.Background(), &fragile{Model: New(time.Second)}, os.Stdin, os.Stdout); errors.Is(err, tea.ErrProgramPanic) {
		return 3
	}
	return 0
}

// fragile breaks by a key.
type fragile struct {
	*Model
	broken bool
}

func (f *fragile) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if key, ok := msg.(tea.KeyPressMsg); ok {
		switch key.String() {
		case "U":
			panic("Update breaks")
		case "V":
			f.broken = true
		case "C":
			return f, func() tea.Msg { panic("a command breaks") }
		}
	}
	_, cmd := f.Model.Update(msg)
	return f, cmd
}

func (f *fragile) View() tea.View {
	if f.broken {
		panic("View breaks")
	}
	return f.Model.View()
}
