package oci

import (
	"encoding/json"
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// engineAnnotations are the names under which one engine says what a container is to a pod, and what it calls the pod's
// first container, which holds the namespaces of all.
type engineAnnotations struct {
	kind      string // the annotation whose value is sandbox or container
	sandboxID string // the annotation with the sandbox container's id
	sandbox   string // the value for the sandbox container; "container" is that for every other
}

// engines are those that run pods through an OCI runtime's command line: CRI-O and podman
// (cri-o/pkg/annotations), containerd (pkg/cri/annotations), Docker behind cri-dockerd (its docker_service.go).
var engines = []engineAnnotations{
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID", "sandbox"},
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id", "sandbox"},
	{"io.kubernetes.docker.type", "io.kubernetes.sandbox.id", "podsandbox"},
}

// SandboxID is the id of the sandbox that a container with these annotations belongs into, as its engine names it, or ""
// for one that begins a sandbox. It is a stranger's word: it may be no id at all.
func SandboxID(annotations map[string]string) (string, error) {
	for _, engine := range engines {
		kind, ok := annotations[engine.kind]
		if !ok {
			continue
		}
		switch id := annotations[engine.sandboxID]; {
		case kind == engine.sandbox:
			return "", nil
		case kind != "container":
			return "", fmt.Errorf("annotation %s is neither %s nor container: %.40q", engine.kind, engine.sandbox, kind)
		case id == "":
			return "", fmt.Errorf("annotation %s has the id of no sandbox", engine.sandboxID)
		default:
			return id, nil
		}
	}
	return "", nil
}

// The sum of what a pod's containers may use, told when its sandbox is made. containerd: numbers in CRI's units, which
// are those of the specification. CRI-O, by two names, the older last: CRI's LinuxContainerResources as JSON.
const (
	podPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	podQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	podMemory = "io.kubernetes.cri.sandbox-memory"
)

var podResources = []string{"pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"}

// podSums are those of LinuxContainerResources that size a VM; zero means that nothing was said.
type podSums struct {
	Period uint64 `json:"cpu_period"`            // microseconds
	Quota  int64  `json:"cpu_quota"`             // microseconds for each period
	Memory int64  `json:"memory_limit_in_bytes"` // bytes
}

// SandboxResources are the resources that the VM of a sandbox is sized by: those of its first container, whose limits of
// CPU time and memory give way to the pod's where annotations tell them. It may return the spec's own, and nil.
func SandboxResources(spec *specs.Spec) (*specs.LinuxResources, error) {
	sums, err := readPodSums(spec.Annotations)
	if err != nil {
		return nil, err
	}
	if sums.Quota <= 0 && sums.Memory <= 0 {
		return spec.Linux.Resources, nil
	}
	r := specs.LinuxResources{}
	if spec.Linux.Resources != nil {
		r = *spec.Linux.Resources
	}
	if sums.Quota > 0 {
		cpu := specs.LinuxCPU{}
		if r.CPU != nil {
			cpu = *r.CPU
		}
		cpu.Quota, cpu.Period = &sums.Quota, &sums.Period
		r.CPU = &cpu
	}
	if sums.Memory > 0 {
		memory := specs.LinuxMemory{}
		if r.Memory != nil {
			memory = *r.Memory
		}
		memory.Limit = &sums.Memory
		r.Memory = &memory
	}
	return &r, nil
}

func readPodSums(annotations map[string]string) (sums podSums, err error) {
	for _, name := range podResources {
		if text, ok := annotations[name]; ok {
			if err := json.Unmarshal([]byte(text), &sums); err != nil {
				return podSums{}, fmt.Errorf("annotation %s: %w", name, err)
			}
			return sums, nil
		}
	}
	for name, set := range map[string]func(string) error{
		podPeriod: func(s string) (err error) { sums.Period, err = strconv.ParseUint(s, 10, 64); return err },
		podQuota:  func(s string) (err error) { sums.Quota, err = strconv.ParseInt(s, 10, 64); return err },
		podMemory: func(s string) (err error) { sums.Memory, err = strconv.ParseInt(s, 10, 64); return err },
	} {
		if text, ok := annotations[name]; ok && text != "" {
			if set(text) != nil {
				return podSums{}, fmt.Errorf("annotation %s is no number: %.40q", name, text)
			}
		}
	}
	return sums, nil
}
