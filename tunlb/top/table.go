package top

import (
	"cmp"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
)

// column is one of a table's. Those with the smallest rank stay when there is little room.
type column struct {
	name     string
	min, max int // columns of the terminal; max 0: min
	right    bool
	rank     int
}

// cell is a text, and how it looks.
type cell struct {
	text  string
	style lipgloss.Style
}

// fitted are the columns that have room in a table.
type fitted struct {
	columns []column
	widths  []int // parallel; 0: no room
}

// fit chooses columns for a width and gives what is left to those that may grow, both by rank.
func fit(columns []column, room int) fitted {
	f := fitted{columns, make([]int, len(columns))}
	order := make([]int, len(columns))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(columns[a].rank, columns[b].rank) })
	gap := 0
	for _, i := range order {
		if room < columns[i].min+gap {
			break // nor has one of lesser rank a claim to the place
		}
		f.widths[i] = columns[i].min
		room -= columns[i].min + gap
		gap = 1
	}
	for _, i := range order {
		if grow := min(room, columns[i].max-columns[i].min); f.widths[i] > 0 && grow > 0 {
			f.widths[i] += grow
			room -= grow
		}
	}
	return f
}

// head is the line with the columns' names; mark is put behind that of the one that sorts.
func (f fitted) head(style lipgloss.Style, sorted string) string {
	cells := make([]cell, len(f.columns))
	for i, c := range f.columns {
		cells[i].text, cells[i].style = c.name, style
		if c.name == sorted {
			cells[i].text = "*" + c.name
		}
	}
	return f.line(cells, nil)
}

// line renders a row; whole, if it is not nil, is the look of all of it.
func (f fitted) line(cells []cell, whole *lipgloss.Style) string {
	var b strings.Builder
	for i, w := range f.widths {
		if w == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		text := left(cells[i].text, w)
		if f.columns[i].right {
			text = right(cells[i].text, w)
		}
		if whole == nil {
			text = cells[i].style.Render(text)
		}
		b.WriteString(text)
	}
	if whole != nil {
		return whole.Render(b.String())
	}
	return b.String()
}

// width of a column; 0: it has no room.
func (f fitted) width(name string) int {
	for i, c := range f.columns {
		if c.name == name {
			return f.widths[i]
		}
	}
	return 0
}

// window is which of n rows are shown in height lines, so that the one at cursor is among them.
func window(n, cursor, height int) (from, to int) {
	from = max(0, min(cursor-height/2, n-height))
	return from, min(n, from+max(0, height))
}
