//go:build linux

package main

import (
	"context"
	"strings"
)

// fault is a case: something that is done to tunlb, and what has to hold meanwhile.
type fault struct {
	name   string // KIND or KIND-WAY
	what   string
	target string
	run    func(context.Context, options) (*outcome, error)
}

// kind is the name without the way.
func (f fault) kind() string {
	kind, _, _ := strings.Cut(f.name, "-")
	return kind
}

// over makes a case of a way, with the protection that it tests in force.
func over[T any](run func(context.Context, options, way, T) (*outcome, error), w way) func(context.Context, options) (*outcome, error) {
	return func(ctx context.Context, o options) (*outcome, error) {
		var intact T // what a negative control breaks
		return run(ctx, o, w, intact)
	}
}

var faults = append([]fault{
	{"synflood-tun", "50,000 SYNs a second from random sources, the table full", synfloodTarget, over(synflood, onTUN)},
	{"synflood-packet", "the same over packet sockets", synfloodTarget, over(synflood, onPacket)},
	{"server-killed", "a real server's process dies in the middle of transfers", serverTarget, over(killServer, onTUN)},
	{"server-silent", "a real server's link is down, and nobody is told", serverTarget, over(silenceServer, onTUN)},
	{"reloads-tun", "1,000 reloads under 500 connections a second", reloadsTarget, over(reloads, onTUN)},
	{"reloads-packet", "the same over packet sockets", reloadsTarget, over(reloads, onPacket)},
	{"device-deleted", "the TUN is deleted under tunlb", deletedTarget, over(deleteDevice, onTUN)},
	{"device-flap", "the TUN goes down and up 100 times", flapTarget, over(flapDevice, onTUN)},
	{"device-flaplink", "the box's interface goes down and up 100 times under a packet socket", flapTarget, over(flapDevice, onPacket)},
	{"device-netns", "the network namespace of a port is given up by all others", netnsTarget, loseNamespace},
	{"startstop-tun", "500 starts and stops", startstopTarget, over(startStop, onTUN)},
	{"startstop-packet", "the same over packet sockets", startstopTarget, over(startStop, onPacket)},
	{"startstop-engine", "500 engines in one process, each with a TUN", engineTarget, startStopEngine},
	{"clock-uptime", "ten years of uptime, and the tick of 32 bits wraps", uptimeTarget, over(uptime, onTUN)},
	{"clock-step", "tunlb's wall clock is set by a day and by ten years, there and back", stepTarget, over(step, onTUN)},
	{"clock-wall", "no decision is taken by the wall clock", wallTarget, wallClock},
	{"kill9-tun", "kill -9 under 1,000 transfers, tunlb supervise starts it again", killTarget, over(kill9, onTUN)},
	{"kill9-packet", "the same over packet sockets", killTarget, over(kill9, onPacket)},
	{"kill9-tap", "the same with direct routing on a TAP", killTarget, over(kill9, onTAP)},
	{"upgrade-tun", "tunlb upgrade under 1,000 transfers", upgradeTarget, over(upgrade, onTUN)},
	{"upgrade-packet", "the same over packet sockets", upgradeTarget, over(upgrade, onPacket)},
	{"upgrade-tap", "the same with direct routing on a TAP", upgradeTarget, over(upgrade, onTAP)},
}, append(packetFaults(), controlFaults()...)...)
