package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// Files of the API server's audit.
const (
	auditPolicyFile = runDir + "/audit-policy.yaml"
	auditLog        = runDir + "/audit.jsonl"
)

// auditPolicy records the beginning of each list and watch of Speakers.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete]
rules:
- level: Metadata
  verbs: [list, watch]
  resources: [{group: fairlead.io, resources: [speakers]}]
- level: None
`

// AuditedRequest is a request in the audit log of the API server (audit.k8s.io/v1 Event).
type AuditedRequest struct {
	Verb       string                    `json:"verb"`
	RequestURI string                    `json:"requestURI"`
	UserAgent  string                    `json:"userAgent"`
	User       authenticationv1.UserInfo `json:"user"`
}

// AuditedRequests returns the lists and watches of Speakers since the cluster was started.
func AuditedRequests() (requests []AuditedRequest, err error) {
	content, err := os.ReadFile(auditLog)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var r AuditedRequest
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("decode the audit log: %w", err)
		}
		requests = append(requests, r)
	}
	return requests, nil
}
