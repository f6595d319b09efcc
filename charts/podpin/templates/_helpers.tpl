{{- define "podpin.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "podpin.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "podpin.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "podpin.selectorLabels" -}}
app.kubernetes.io/name: podpin
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: proxy
{{- end -}}

{{- define "podpin.labels" -}}
{{ include "podpin.selectorLabels" . }}
app.kubernetes.io/part-of: podpin
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "podpin.image" -}}
{{- $name := .Values.image.repository -}}
{{- if .Values.image.registry }}{{- $name = printf "%s/%s" .Values.image.registry $name }}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The port of an address such as 0.0.0.0:9901. */}}
{{- define "podpin.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{- define "podpin.keysSecret" -}}
{{- default (printf "%s-affinity-keys" (include "podpin.fullname" .)) .Values.affinityKeys.existingSecret -}}
{{- end -}}

{{/* The configuration: what the chart makes, and .Values.config over it. */}}
{{- define "podpin.config" -}}
{{- $http := dict "name" "http" "address" "0.0.0.0:8080" -}}
{{- if .Values.proxyProtocol }}{{- $_ := set $http "proxyProtocol" .Values.proxyProtocol }}{{- end -}}
{{- $listeners := list $http -}}
{{- if .Values.tls -}}
{{- $certificates := list -}}
{{- range .Values.tls -}}
{{- $directory := printf "/etc/podpin-tls/%s" .secretName -}}
{{- $certificates = append $certificates (dict "certFile" (printf "%s/tls.crt" $directory) "keyFile" (printf "%s/tls.key" $directory)) -}}
{{- end -}}
{{- $https := dict "name" "https" "address" "0.0.0.0:8443" "tls" (dict "certificates" $certificates) -}}
{{- if .Values.proxyProtocol }}{{- $_ := set $https "proxyProtocol" .Values.proxyProtocol }}{{- end -}}
{{- $listeners = append $listeners $https -}}
{{- end -}}
{{- $keys := list -}}
{{- range .Values.affinityKeys.ids }}{{- $keys = append $keys (dict "id" . "file" (printf "/etc/podpin-keys/%s" .)) }}{{- end -}}
{{- $admin := dict "address" "0.0.0.0:9901" -}}
{{- if .Values.adminTokenSecret }}{{- $_ := set $admin "token" (dict "file" "/etc/podpin-admin/token") }}{{- end -}}
{{- $services := .Values.services | default (dict "chat" (dict "discovery" (dict "kubernetes" (dict "service" "chat" "port" "http")))) -}}
{{- $routes := .Values.routes | default (list (dict "service" (keys $services | sortAlpha | first))) -}}
{{- $made := dict "listeners" $listeners "admin" $admin "workers" (int .Values.workers) "affinityKeys" $keys "routes" $routes "services" $services "shutdown" .Values.shutdown -}}
{{- mergeOverwrite (deepCopy $made) .Values.config | toYaml -}}
{{- end -}}

{{/* A duration of podpin.yaml in seconds, rounded up. */}}
{{- define "podpin.seconds" -}}
{{- $ms := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" (toString .) -1 -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $ms = add $ms (mul $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit)) -}}
{{- end -}}
{{- div (add $ms 999) 1000 -}}
{{- end -}}

{{- define "podpin.gracePeriod" -}}
{{- $config := include "podpin.config" . | fromYaml -}}
{{- $timeout := include "podpin.seconds" $config.shutdown.timeout | int64 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- add $timeout 10 -}}
{{- else if le (int64 $given) $timeout -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is not longer than shutdown.timeout, %s: streams would be cut" (int64 $given) $config.shutdown.timeout) -}}
{{- else -}}
{{- $given -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that podpin reads, sorted; the release's own is one of them. */}}
{{- define "podpin.namespaces" -}}
{{- $config := include "podpin.config" . | fromYaml -}}
{{- $all := append .Values.rbac.namespaces .Release.Namespace -}}
{{- range $_, $service := $config.services -}}
{{- $kubernetes := dig "discovery" "kubernetes" dict $service -}}
{{- with get $kubernetes "namespace" }}{{- $all = append $all . }}{{- end -}}
{{- end -}}
{{- $all | uniq | sortAlpha | join "," -}}
{{- end -}}
