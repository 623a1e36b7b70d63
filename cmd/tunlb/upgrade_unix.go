//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyUpgrade has c get what asks for an upgrade.
func notifyUpgrade(c chan<- os.Signal) { signal.Notify(c, syscall.SIGUSR2) }

// ignoreOrders has the program that is executed next not die of signals that it does not yet know of. What they ask for it is doing.
func ignoreOrders() { signal.Ignore(syscall.SIGUSR2, syscall.SIGHUP) }
