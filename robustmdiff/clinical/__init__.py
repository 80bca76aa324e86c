"""Between hospital formats and a model: patients from DICOM files and FHIR bundles, answers as a DICOM
Structured Report or a FHIR DiagnosticReport."""
