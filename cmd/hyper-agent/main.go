// Command hyper-agent is /init of the guest's initramfs. See package agent.
package main

import "github.com/hyper-runtime/hyper/agent"

func main() {
	agent.Main()
}
