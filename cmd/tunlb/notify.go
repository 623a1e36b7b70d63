package main

import (
	"context"
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// manager is the service manager, as far as it is told how tunlb fares: sd_notify(3). Without NOTIFY_SOCKET it is nobody.
type manager struct{ log zerolog.Logger }

func (m manager) tell(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		m.log.Warn().Err(err).Msg("the service manager can't be told")
	}
}

// ready is told when tunlb balances, and when it does so in a new way.
func (m manager) ready(status string) { m.tell(systemd.SdNotifyReady + "\nSTATUS=" + status) }

// reloading is followed by ready, whatever has come of it. The time is for Type=notify-reload, which would otherwise take the ready of an earlier reload for that of this one.
// It is a sign of life as well: a successor that takes over has none to give for a while.
func (m manager) reloading(status string) {
	m.tell(systemd.SdNotifyReloading + "\n" + systemd.SdNotifyMonotonicUsec() + systemd.SdNotifyWatchdog + "\nSTATUS=" + status)
}

func (m manager) stopping() {
	m.tell(systemd.SdNotifyStopping + "\nSTATUS=undoing what the kernel was told")
}

// keepAlive tells the manager's watchdog that tunlb is alive, as long as alive returns, until ctx ends. alive takes what has to be free for packets to
// pass: while it hangs nothing is said, and the manager kills the process.
func (m manager) keepAlive(ctx context.Context, alive func() int) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn().Err(err).Msg("the service manager's watchdog")
	}
	if interval == 0 || os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	tick := time.NewTicker(interval / 3) // one of them may come late
	defer tick.Stop()
	for {
		alive()
		m.tell(systemd.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
