// Package keeper lets a lab outlive the command that brought it up: a background process holds it, and others ask that one
// over a Unix socket to run commands on its hosts, impair its links, publish its services, and end it.
//
// It owns the directory in which labs are found (Place), the protocol (Serve, Client) and published ports. It
// starts no process and makes no lab: the command line does, with a driver.
package keeper
