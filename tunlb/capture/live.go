package capture

import (
	"context"
	"time"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// Slots says how many records with snap bytes of each frame may wait to be written: what a subscription's memory has
// room for, or as many as nobody needs more.
func Slots(snap int) int {
	const most = 1 << 14
	return min(watch.Room(watch.DefaultMemory, snap), most)
}

// statsInterval is how often the stream says how many records were lost, if that has changed.
const statsInterval = 100 * time.Millisecond

// Follow writes what a subscription gets until ctx or the subscription ends, or writing fails. flush is called when
// there is nothing more to write for the moment, and not for each packet. It ends with what was lost.
func Follow(ctx context.Context, s *watch.Subscription, w *Writer, flush func() error) error {
	asking, stop := context.WithCancel(context.Background())
	stop() // to look for a record without waiting
	told, toldAt := uint64(0), time.Now()
	tell := func(now time.Time) error {
		lost := s.Lost()
		if lost == told || now.Sub(toldAt) < statsInterval {
			return nil
		}
		told, toldAt = lost, now
		return w.Stats(now, lost)
	}
	for ctx.Err() == nil {
		r, ok := s.Next(asking)
		if !ok {
			if err := tell(time.Now()); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			waiting, enough := context.WithTimeout(ctx, statsInterval)
			r, ok = s.Next(waiting)
			timedOut := waiting.Err() != nil
			enough()
			if !ok && !timedOut {
				break // the subscription has ended
			}
			if !ok {
				continue
			}
		}
		at := r.Time
		err := w.Write(r)
		s.Release(r)
		if err == nil {
			err = tell(at)
		}
		if err != nil {
			return err
		}
	}
	if err := w.Stats(time.Now(), s.Lost()); err != nil {
		return err
	}
	return flush()
}
