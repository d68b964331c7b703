{{/* The name of every object, and of the DaemonSet that `kubectl exec` names. */}}
{{- define "egress-agent.name" -}}
egress-agent
{{- end }}

{{/* Labels of every object that is not another pod. Helm adds app.kubernetes.io/managed-by itself. */}}
{{- define "egress-agent.labels" -}}
{{ include "egress-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* A DaemonSet's selector cannot be changed, so these never change. No other pod has them: the controller adopts every
     pod that matches. */}}
{{- define "egress-agent.selector" -}}
app.kubernetes.io/name: {{ include "egress-agent.name" . }}
{{- end }}

{{- define "egress-agent.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end }}

{{/* The agent's settings: those that the manifests fix, those that an installation usually changes, and the others of `config`. */}}
{{- define "egress-agent.settings" -}}
{{- $config := .Values.config -}}
rules: [/etc/egress-agent/rules]
bpfDir: /sys/fs/bpf/egress-agent
# In a rolling update the new pod waits until the old one is stopped, and takes over.
standby: true
# auto: the pods' root of this node, below which this pod runs too. All pods below it are behind the
# gate, those of kube-system too: list what those need, or put their destinations under `internal`.
# The agent leaves its own pod's cgroup before it creates a socket.
cgroups: {{ toJson $config.cgroups }}
{{- with $config.agentCgroup }}
agentCgroup: {{ toJson . }}
{{- end }}
# Allowed without a rule, beside the cluster's own ranges, which the agent finds.
internal: {{ toJson ($config.internal | default list) }}
{{- with .Values.admission }}
{{- if .enabled }}
admission: {address: ":{{ .port }}", certificate: /etc/egress-agent/admission}
{{- end }}
{{- end }}
{{- range $name, $value := omit $config "cgroups" "agentCgroup" "internal" }}
{{- if not (kindIs "invalid" $value) }}
{{ toYaml (dict $name $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "egress-agent.monitoring" -}}
{{- with .Values.config.monitoring }}{{ .address }}{{ end }}
{{- end }}

{{/* The settings that a running agent takes from a changed file. A change of any other one replaces the pods. */}}
{{- define "egress-agent.live" -}}
workloads mode internal outboundTrafficPolicy unlistedAddress allowPrivateAnswers privateAnswers denyErrno
dns.caCertificates dns.minTTL dns.grace accessLogFile accessLogEncoding accessLogFormat
{{- end }}

{{/* Everything that only a restart applies, as one value. */}}
{{- define "egress-agent.restart" -}}
{{- $config := deepCopy .Values.config }}
{{- range $name := splitList " " (include "egress-agent.live" . | replace "\n" " ") }}
{{- $parts := splitList "." $name }}
{{- if eq (len $parts) 1 }}
{{- $_ := unset $config $name }}
{{- else if hasKey $config (first $parts) }}
{{- $_ := unset (get $config (first $parts)) (last $parts) }}
{{- end }}
{{- end }}
{{- toJson $config }}
{{- with .Values.admission }}{{ if .enabled }} {{ .port }} {{ .secret }}{{ end }}{{ end }}
{{- end }}
