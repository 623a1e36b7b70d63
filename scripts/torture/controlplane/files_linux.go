package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tunlb/tunlb/scripts/torture/packets"
)

// Reloads reloads n times, by a hundred clients at a time; every other time the file is another one.
func Reloads(ctx context.Context, binary string, n int) (*packets.Result, error) {
	const atATime = 100
	return run(ctx, binary, func(s *site) error {
		var done, refused atomic.Int64
		err := s.endure(ctx, func(ctx context.Context) error {
			for round := 0; round*atATime < n && ctx.Err() == nil; round++ {
				config := configuration
				if round%2 == 0 {
					config += "      - {name: spare, address: 192.168.0.12:7, weight: 0}\n"
				}
				if err := s.write(config); err != nil {
					return err
				}
				var all sync.WaitGroup
				for range atATime {
					all.Go(func() {
						if r, err := s.client.Reload(ctx, false); err != nil || len(r.Errors) > 0 {
							refused.Add(1)
						} else {
							done.Add(1)
						}
					})
				}
				all.Wait()
			}
			return nil
		})
		s.prove("reloads", float64(done.Load()), float64(max(n, atATime)), "")
		s.atMost("refused", float64(refused.Load()), 0, "")
		s.atLeast("of these in the log", float64(said(s.log(), "reload asked for")), float64(done.Load()), "")
		return err
	})
}

// file is one that is no configuration.
type file struct{ name, text string }

const largest = 4 << 20 // bytes that tunlb reads

// HostileFile reloads files that are none, n times.
func HostileFile(ctx context.Context, binary string, n int) (*packets.Result, error) {
	return refusedFiles(ctx, binary, n, []file{
		{"deep", strings.Repeat("[", 1<<20)},
		{"deep maps", strings.Repeat("{a: ", 1<<19)},
		{"deep blocks", blocks(2000)},
		{"too long", strings.Repeat("#", largest+1)},
		{"zeros", strings.Repeat("\x00", largest)},
		{"laughs", laughs(30)},
		{"one line", "services: [" + strings.Repeat("{name: a},", 20000) + "]"},
		{"no text", strings.Repeat("\xff\xfe\xfd", 1<<18)},
		{"commas", strings.Repeat(",", largest)},
		{"colons", strings.Repeat(": ", largest/2)},
	})
}

// CostlyFile reloads files that have as much as may be had of what takes memory, n times.
func CostlyFile(ctx context.Context, binary string, n int) (*packets.Result, error) {
	return refusedFiles(ctx, binary, n, []file{
		{"brackets", strings.Repeat("[ ", 799_000)},
		{"colons", strings.Repeat(": ", 799_000)},
		{"keys", strings.Repeat("a: b\n", 266_000)},
		{"items", strings.Repeat("- a b c\n", 399_000)},
		{"text", strings.Repeat("a", largest)},
		{"spaces", strings.Repeat(" ", largest)},
	})
}

func refusedFiles(ctx context.Context, binary string, n int, files []file) (*packets.Result, error) {
	return run(ctx, binary, func(s *site) error {
		refused := 0
		err := s.endure(ctx, func(ctx context.Context) error {
			for i := range n {
				f := files[i%len(files)]
				if err := s.write(f.text); err != nil {
					return err
				}
				r, err := s.client.Reload(ctx, false)
				if err != nil {
					return fmt.Errorf("%s: %w", f.name, err)
				}
				if len(r.Errors) > 0 {
					refused++
				}
			}
			return s.write(configuration)
		})
		if err != nil {
			return err
		}
		r, err := s.client.Reload(ctx, false)
		if err == nil && len(r.Errors) > 0 {
			err = errors.New(r.Errors[0])
		}
		s.prove("files", float64(n), float64(len(files)), "")
		s.atLeast("of these refused", float64(refused), float64(n), "")
		s.want(err == nil && len(r.Changes) == 0, "afterwards: %v, %v", r.Changes, err)
		return nil
	})
}

// blocks are n maps, each in the one before.
func blocks(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

// laughs is a list that is ten times as long with each of its n lines, by aliases.
func laughs(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range n {
		fmt.Fprintf(&b, "a%d: &a%[1]d [%s*a%d]\n", i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	return b.String()
}
